package node

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/report"
)

const (
	reportFile = "report.json"
	reportLock = "report.lock"

	maxPending = 8
)

// Reporting is report.json: what this node knows of its reports in the bucket. A node of
// which it is lost is another instance.
type Reporting struct {
	Version  int    `json:"version"`  // of the file
	Instance string `json:"instance"` // 32 hex digits, drawn when the file was made
	// Where is the digest of where the report is, and Object the version that this node wrote
	// there last.
	Where   layout.Digest `json:"where,omitempty"`
	Object  string        `json:"object,omitempty"`
	News    layout.Digest `json:"news,omitempty"` // of what it says; see report.News
	Written canon.Time    `json:"written,omitzero"`
	Due     canon.Time    `json:"due,omitzero"` // when the next one is, whether or not there is news
	// Pending are the documents that were sent since, and of which it is not known whether
	// they arrived.
	Pending  []layout.Digest `json:"pending,omitempty"`
	Problem  *Unreported     `json:"problem,omitempty"`
	Namesake *Namesake       `json:"namesake,omitempty"`
}

// Unreported says why the report is not written.
type Unreported struct {
	Since canon.Time  `json:"since"`
	Count int         `json:"count"`
	Next  canon.Time  `json:"next"` // when it is tried again
	Code  reason.Code `json:"reason"`
	Cause string      `json:"cause"`
}

// Namesake is who else wrote the report of this node.
type Namesake struct {
	Count    int        `json:"count"` // how often this node found that, each within the time of the one before
	At       canon.Time `json:"at"`    // the last time
	Until    canon.Time `json:"until"` // when it is forgotten if it does not happen again
	Instance string     `json:"instance,omitempty"`
}

// IsThere reports whether there is another machine with the name of this node: once is what
// a restored disk looks like, or a .sando/ that was removed.
func (n *Namesake) IsThere(now time.Time) bool {
	return n != nil && n.Count > 1 && now.Before(n.Until.Time)
}

// Pend notes that a document is about to be sent.
func (r *Reporting) Pend(d layout.Digest) {
	r.Pending = append(r.Pending, d)
	r.Pending = r.Pending[max(0, len(r.Pending)-maxPending):]
}

// NewReporting returns that of a node that never reported.
func NewReporting() *Reporting {
	var id [16]byte
	rand.Read(id[:])
	return &Reporting{Version: stateVersion, Instance: hex.EncodeToString(id[:])}
}

// ParseReporting reads the bytes of report.json; errors as of State.
func ParseReporting(data []byte) (*Reporting, error) {
	r := new(Reporting)
	if err := parse(data, r); err != nil {
		return nil, err
	}
	if err := report.CheckInstance(r.Instance); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	for _, d := range append([]layout.Digest{r.Where, r.News}, r.Pending...) {
		if err := d.Check(); d != "" && err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBroken, err)
		}
	}
	return r, nil
}

// Reporting reads report.json; nil when there is none. Errors as of State.
func (d *Dir) Reporting() (*Reporting, error) {
	data, err := readCapped(d.Path(reportFile), maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	r, err := ParseReporting(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", reportFile, err)
	}
	return r, nil
}

// SaveReporting replaces report.json durably.
func (d *Dir) SaveReporting(r *Reporting) error {
	data, err := canon.Encode(r)
	if err != nil {
		return fmt.Errorf("encode %s: %w", reportFile, err)
	}
	return d.save(reportFile, data)
}

// LockReport makes this process the one that writes the report, and returns what ends that;
// nil when another one does at this moment. It waits for nothing.
func (d *Dir) LockReport() (unlock func(), err error) {
	f, err := os.OpenFile(d.Path(reportLock), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, reason.OnDisk(fmt.Errorf("open %s: %w", reportLock, err))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, reason.OnDisk(fmt.Errorf("lock %s: %w", f.Name(), err))
	}
	return func() { f.Close() }, nil
}

// Room is how much of the node's filesystem is free, without what only root may use.
type Room struct {
	Free, Total int64 // bytes
	Inodes      int64 // free ones; 0 where they are not counted
}

// Room looks how much is free. No figure is above 2^53-1, as documents have it.
func (d *Dir) Room() (Room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.root, &st); err != nil {
		return Room{}, reason.OnDisk(&fs.PathError{Op: "statfs", Path: d.root, Err: err})
	}
	const most = 1<<53 - 1
	r := Room{Free: min(times(st.Bavail, st.Bsize), most), Total: min(times(st.Blocks, st.Bsize), most)}
	if st.Files > 0 {
		r.Inodes = min(atMost(st.Ffree), most)
	}
	return r, nil
}
