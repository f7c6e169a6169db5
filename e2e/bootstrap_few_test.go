//go:build !soak

package e2e

// interruptions is at how many random moments a bootstrap is interrupted.
func interruptions() int { return 6 }
