//go:build !faults

package durable

// op does one operation on the disk.
func op(_, _ string, do func() error) error { return do() }
