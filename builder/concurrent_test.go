package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
)

// Two builders on two hosts release at once: each ends well or says who was first, and
// the channel names a bundle that is whole.
func TestTwoBuilders(t *testing.T) {
	// meet makes both builds wait for each other, so that neither is first by chance.
	const meet = "touch \"$MEET/$SANDO_COMMIT$SANDO_VERSION\"\nwhile [ $(ls \"$MEET\" | wc -l) -lt 2 ]; do sleep 0.02; done\n"
	for name, c := range map[string]struct {
		other   func(s *site) (string, ReleaseRequest)
		outcome func(t *testing.T, s *site, errs []error)
	}{
		"the same version from two commits": {
			func(s *site) (string, ReleaseRequest) {
				return s.commit("change", map[string]string{"code": "two"}), ReleaseRequest{}
			},
			func(t *testing.T, s *site, errs []error) {
				if (errs[0] == nil) == (errs[1] == nil) {
					t.Fatalf("want one of two to win, got %v", errs)
				}
				if err := errors.Join(errs...); reason.Of(err) != reason.Mismatch {
					t.Errorf("got %v, want a mismatch", err)
				}
				s.names("host", "1.0.0")
			},
		},
		"two versions": {
			func(s *site) (string, ReleaseRequest) { return s.version("1.1.0"), ReleaseRequest{} },
			func(t *testing.T, s *site, errs []error) {
				if (errs[0] == nil) == (errs[1] == nil) {
					t.Fatalf("want one of two to win, got %v", errs)
				}
				err := errors.Join(errs...)
				if reason.Of(err) != reason.Stale || !strings.Contains(err.Error(), "is published, but: advance host") ||
					!strings.Contains(err.Error(), "moved meanwhile") {
					t.Errorf("got %v, want that the channel moved", err)
				}
			},
		},
		"the same commit": {
			func(s *site) (string, ReleaseRequest) {
				return s.git(s.src, "rev-parse", "HEAD"), ReleaseRequest{}
			},
			func(t *testing.T, s *site, errs []error) {
				if err := errors.Join(errs...); err != nil {
					t.Error(err)
				}
				s.names("host", "1.0.0")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			meeting := t.TempDir()
			t.Setenv("MEET", meeting)
			build, err := os.ReadFile(filepath.Join(s.src, "build.sh"))
			if err != nil {
				t.Fatal(err)
			}
			wait := meet
			if name == "the same commit" {
				wait = strings.ReplaceAll(meet, "$SANDO_COMMIT$SANDO_VERSION", "$$")
			}
			one := s.commit("change", map[string]string{"build.sh": string(build) + wait})
			two, req := c.other(s)
			errs := make([]error, 2)
			var wg sync.WaitGroup
			for i, rev := range []string{one, two} {
				b := s.builder(inState(filepath.Join(t.TempDir(), fmt.Sprint(i))))
				wg.Go(func() {
					r := req
					r.Rev = rev
					_, errs[i] = b.Release(t.Context(), r)
				})
			}
			wg.Wait()
			c.outcome(t, s, errs)
			ch := s.channel("host")
			if ch == nil {
				t.Fatal("no channel")
			}
			if v, err := s.builder().Verify(t.Context(), ch.Version); err != nil || v.Manifest != ch.Manifest {
				t.Errorf("the channel names a bundle that is not whole: %+v, %v", v, err)
			}
		})
	}
}

func TestOneStateIsLocked(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var log lockedBuffer
	b := s.builder(logTo(&log))
	if err := b.openState(); err != nil {
		t.Fatal(err)
	}
	held, err := s.builder().lock(t.Context(), "lock", "release of the test")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := b.Release(t.Context(), ReleaseRequest{})
		done <- err
	}()
	for !strings.Contains(log.String(), `does="release of the test"`) {
		select {
		case err := <-done:
			t.Fatalf("did not wait: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := held.release(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}

	held, err = s.builder().lock(t.Context(), "lock", "again")
	if err != nil {
		t.Fatal(err)
	}
	defer held.release()
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("told to stop")
	cancel(stop)
	if _, err := s.builder().Release(ctx, ReleaseRequest{}); !errors.Is(err, stop) {
		t.Errorf("got %v, want the cause", err)
	}
}

// What a killed builder left running is ended before its state is used.
func TestKilledBuilderIsReaped(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.builder()
	if err := b.openState(); err != nil {
		t.Fatal(err)
	}
	orphan := exec.Command("sleep", "1000")
	orphan.Env = append(os.Environ(), "SANDO_RUN=of-the-dead")
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- orphan.Wait() }()
	if err := os.WriteFile(b.state("lock"), []byte(`{"pid":1,"what":"release","since":"","cookie":"of-the-dead"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Release(t.Context(), ReleaseRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the orphan ended with %v", err)
	}
}

func TestStateDirectoryOfSomebodyElse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.edit(`state = "state"`, `state = "."`)
	_, err := s.builder().Release(t.Context(), ReleaseRequest{})
	if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "none of the builder's") {
		t.Errorf("got %v", err)
	}
}

func TestCancelledBuild(t *testing.T) {
	s := newSite(t)
	started := filepath.Join(t.TempDir(), "started")
	t.Setenv("STARTED", started)
	commit := s.commit("change", map[string]string{"build.sh": "mkdir -p out; echo part >out/app; touch \"$STARTED\"; sleep 1000"})
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("told to stop")
	done := make(chan error, 1)
	b := s.builder()
	go func() {
		_, err := b.Release(ctx, ReleaseRequest{})
		done <- err
	}()
	for {
		if _, err := os.Stat(started); err == nil {
			break
		}
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel(stop)
	if err := <-done; !errors.Is(err, stop) {
		t.Errorf("got %v, want the cause", err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "state/work", commit+".busy")); err != nil {
		t.Errorf("the work tree of a killed build counts as good: %v", err)
	}
	s.names("host", "")
	if got := s.snapshot("bucket"); len(got) != 0 {
		t.Errorf("published %v", got)
	}
}
