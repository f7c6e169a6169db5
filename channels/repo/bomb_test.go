package repo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/channels/repo/pack/packtest"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

// maxResident bounds the memory of a process that fetches a bomb, in MiB.
const maxResident = 300

// reader fetches: "URL MIRROR LAST", and says how that ended and what memory it took, in MiB.
func reader(arg string) string {
	var url, mirror, last string
	if _, err := fmt.Sscan(arg, &url, &mirror, &last); err != nil {
		return err.Error()
	}
	r, err := Open(mirror, Config{URL: url, Branch: "main"})
	var s *Snapshot
	if err == nil {
		s, err = r.Fetch(context.Background(), strings.Trim(last, "-"))
	}
	status, serr := os.ReadFile("/proc/self/status")
	var peak int
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM:") {
			_, serr = fmt.Sscanf(line, "VmHWM: %d kB", &peak)
		}
	}
	if serr != nil {
		return serr.Error()
	}
	return fmt.Sprintf("%s %t %d %v", reason.Of(err), s != nil && s.Rewritten, peak>>10, err)
}

// giver is a host that gives out packs: one to those who have nothing, one to others.
type giver struct {
	head        plumbing.Hash
	refs        int // besides the branch
	first, news []byte
}

func (g *giver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := pktline.NewEncoder(w)
	if r.Method == http.MethodGet {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		e.EncodeString("# service=git-upload-pack\n")
		e.Flush()
		e.EncodeString(g.head.String() + " refs/heads/main\x00shallow\n")
		for i := range g.refs {
			e.EncodeString(fmt.Sprintf("%s refs/pull/%06d/head\n", g.head, i))
		}
		e.Flush()
		return
	}
	w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, have, had := strings.Cut(string(body), "have ")
	if had {
		e.EncodeString("ACK " + have[:40] + "\n")
		w.Write(g.news)
		return
	}
	e.EncodeString("shallow " + g.head.String() + "\n")
	e.Flush()
	e.EncodeString("NAK\n")
	w.Write(g.first)
}

// TestMemoryBombs fetches what is small on the wire and big unpacked, by a process whose
// memory is looked at.
func TestMemoryBombs(t *testing.T) {
	testenv.NoRace(t, "memory is measured")
	const mib = 1 << 20
	blob := packtest.Entry{Type: plumbing.BlobObject, Content: []byte("x")}
	text := func(e ...objects.Entry) packtest.Entry {
		return packtest.Entry{Type: plumbing.TreeObject, Content: objects.EncodeTree(e)}
	}
	name := func(e packtest.Entry) plumbing.Hash { return plumbing.ComputeHash(e.Type, e.Content) }
	tree := text(objects.Entry{Mode: objects.ModeFile, Name: "x", Hash: name(blob)})
	commit := packtest.Entry{Type: plumbing.CommitObject, Content: []byte("tree " + name(tree).String() + "\nauthor A <a> 1 +0000\ncommitter A <a> 1 +0000\n\nx\n")}
	good := packtest.Pack(t, blob, tree, commit)

	zeros := func(n int) packtest.Entry {
		return packtest.Entry{Type: plumbing.BlobObject, Content: make([]byte, n)}
	}
	deltas := []packtest.Entry{zeros(1 << 16)}
	for i := range 500 {
		deltas = append(deltas, packtest.Entry{Type: plumbing.OFSDeltaObject, Back: i + 1, Content: packtest.Delta(1<<16, 7*mib)})
	}
	var eights []packtest.Entry
	for range 8 {
		eights = append(eights, zeros(8*mib))
	}
	giant := packtest.Entry{Type: plumbing.OFSDeltaObject, Back: 1, Content: packtest.Delta(1<<16, 8<<30)}
	var pending []packtest.Entry
	for range 8 {
		pending = append(pending, packtest.Entry{Type: plumbing.REFDeltaObject, Base: name(tree), Content: make([]byte, 8*mib)})
	}
	huge := packtest.Entry{Type: plumbing.BlobObject, Content: make([]byte, mib), Says: 1 << 30}
	for _, c := range []struct {
		name        string
		refs        int
		first, news []byte
		want        string // the reason, and whether history counts as rewritten
	}{
		{"nothing", 0, good, nil, "current false"},
		{"100 000 references", 100_000, good, nil, "current false"},
		{"a blob of 256 MiB", 0, packtest.Pack(t, zeros(256*mib), tree, commit), nil, "limit false"},
		{"blobs of 8 MiB", 0, packtest.Pack(t, eights...), nil, "limit false"},
		{"deltas to 3.5 GiB", 0, packtest.Pack(t, deltas...), nil, "limit false"},
		{"a delta to 8 GiB", 0, packtest.Pack(t, deltas[0], giant), nil, "limit false"},
		{"deltas of nothing", 0, packtest.Pack(t, pending...), nil, "limit false"},
		{"a blob of 1 GiB beside the history", 0, good, packtest.Pack(t, commit, huge), "current true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &giver{name(commit), c.refs, c.first, c.news}
			s := httptest.NewServer(g)
			t.Cleanup(s.Close)
			last := "-"
			if c.news != nil {
				last = strings.Repeat("1", 40)
			}
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s/c.git %s %s", readerEnv, s.URL, filepath.Join(t.TempDir(), "m"), last))
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			var code, rewritten string
			var resident int
			if _, err := fmt.Fscan(bytes.NewReader(out), &code, &rewritten, &resident); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			t.Logf("%d KiB of pack, %d MiB resident: %s", (len(c.first)+len(c.news))>>10, resident, out)
			if got := code + " " + rewritten; got != c.want || resident > maxResident {
				t.Errorf("Fetch: %s with %d MiB resident, want %s and at most %d MiB", got, resident, c.want, maxResident)
			}
		})
	}
}
