package node

import (
	"errors"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

func fullReporting() *Reporting {
	at := canon.At(time.Date(2026, 6, 3, 3, 10, 0, 0, time.UTC))
	r := NewReporting()
	r.Where, r.Object, r.News, r.Written, r.Due = layout.Sum(nil), `"5f0c"`, layout.Sum([]byte("news")), at, at
	r.Pend(layout.Sum([]byte("sent")))
	r.Problem = &Unreported{Since: at, Count: 1, Next: at, Code: reason.IO, Cause: "no route to host"}
	r.Namesake = &Namesake{Count: 2, At: at, Until: at, Instance: r.Instance}
	return r
}

func TestReporting(t *testing.T) {
	d, err := Open(t.TempDir() + "/root")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := d.Reporting(); r != nil || err != nil {
		t.Fatalf("of nothing: %+v, %v", r, err)
	}
	full := fullReporting()
	if err := d.SaveReporting(full); err != nil {
		t.Fatal(err)
	}
	r, err := d.Reporting()
	if err != nil {
		t.Fatal(err)
	}
	if r.Instance != full.Instance || r.Object != full.Object || r.Problem.Cause != full.Problem.Cause || r.Namesake.Count != 2 {
		t.Errorf("read back: %+v", r)
	}
	if other := NewReporting(); other.Instance == r.Instance || len(other.Instance) != 32 {
		t.Errorf("the next instance is %q", other.Instance)
	}
}

func TestReportingBroken(t *testing.T) {
	data, err := canon.Encode(fullReporting())
	if err != nil {
		t.Fatal(err)
	}
	r := fullReporting()
	for _, tt := range []struct{ name, old, new string }{
		{"an instance", `"instance": "`, `"instance": "x`},
		{"news", string(r.News), "sha256:0"},
		{"a place", string(r.Where), "sha256:0"},
		{"what was sent", string(r.Pending[0]), "sha256:0"},
		{"an unknown field", `"where"`, `"were"`},
		{"no version", `"version": 1`, `"version": 0`},
	} {
		bad := strings.Replace(string(data), tt.old, tt.new, 1)
		if _, err := ParseReporting([]byte(bad)); bad == string(data) || !errors.Is(err, ErrBroken) {
			t.Errorf("%s: error is %v, want ErrBroken", tt.name, err)
		}
	}
	newer := strings.Replace(string(data), `"version": 1`, `"version": 2`, 1)
	if _, err := ParseReporting([]byte(newer)); reason.Of(err) != reason.Config {
		t.Errorf("a newer version: %v", err)
	}
}

func TestNamesake(t *testing.T) {
	at := time.Date(2026, 6, 3, 3, 10, 0, 0, time.UTC)
	n := &Namesake{Count: 2, Until: canon.At(at)}
	for _, tt := range []struct {
		n    *Namesake
		now  time.Time
		want bool
	}{{nil, at, false}, {n, at.Add(-time.Second), true}, {n, at, false}, {&Namesake{Count: 1, Until: n.Until}, at.Add(-time.Second), false}} {
		if got := tt.n.IsThere(tt.now); got != tt.want {
			t.Errorf("%+v at %s: %v", tt.n, tt.now, got)
		}
	}
}

func TestPend(t *testing.T) {
	r := NewReporting()
	for n := range maxPending + 3 {
		r.Pend(layout.Sum([]byte{byte(n)}))
	}
	if len(r.Pending) != maxPending || r.Pending[maxPending-1] != layout.Sum([]byte{maxPending + 2}) {
		t.Errorf("pending are %v", r.Pending)
	}
}

func TestLockReport(t *testing.T) {
	d, err := Open(t.TempDir() + "/root")
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := d.LockReport()
	if err != nil || unlock == nil {
		t.Fatal(err)
	}
	if second, err := d.LockReport(); second != nil || err != nil {
		t.Errorf("a second one has it as well: %v", err)
	}
	unlock()
	if third, err := d.LockReport(); third == nil || err != nil {
		t.Errorf("nobody has it, and it is not given: %v", err)
	} else {
		third()
	}
}

func TestRoom(t *testing.T) {
	d, err := Open(t.TempDir() + "/root")
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Room()
	if err != nil || r.Free <= 0 || r.Free > r.Total || r.Inodes < 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// FuzzReporting: what is read prints back the same bytes.
func FuzzReporting(f *testing.F) {
	data, err := canon.Encode(fullReporting())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseReporting(data)
		if err != nil {
			return
		}
		if again, err := canon.Encode(r); err != nil || string(again) != string(data) {
			t.Fatalf("%v: prints back %q", err, again)
		}
	})
}
