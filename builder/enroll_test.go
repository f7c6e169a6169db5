package builder

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/builder/enroll"
	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

func (s *site) enroll(req EnrollRequest) *Enrolled {
	s.t.Helper()
	done, err := s.builder().Enroll(s.t.Context(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	return done
}

// noted asserts that the notes, in their order, hold these texts.
func (e *Enrolled) noted(t *testing.T, want ...string) {
	t.Helper()
	ok := len(e.Notes) == len(want)
	for i := 0; ok && i < len(want); i++ {
		ok = strings.Contains(e.Notes[i], want[i])
	}
	if !ok {
		t.Errorf("notes are\n%q\nwant\n%q", e.Notes, want)
	}
}

// elsewhere is what a site's nodes on other machines are told.
func elsewhere(req EnrollRequest) EnrollRequest {
	req.Storage, req.Channels = "s3://releases", "https://git.example.org/x.git"
	return req
}

func TestEnroll(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	got := s.enroll(EnrollRequest{Node: "alpha", Tier: "a", Rest: []string{"--exec", "x y"}})
	url := func(name string) string { return FileURL(s.dir + "/" + name) }
	want := "puller bootstrap --app mnw --tier a --node alpha --storage " + url("bucket") + " --channels " + url("channels.git") +
		" --trust-fingerprint " + string(got.Fingerprint) + " --exec 'x y'"
	if got.Line != want || enroll.Quote(got.Words) != want || got.Trust != 1 || got.MinSeq != 0 || got.Outcome != "" {
		t.Errorf("%+v, want the line\n%s", got, want)
	}
	if got.Fingerprint != layout.Sum([]byte(s.read("keys/trust.json"))) {
		t.Errorf("fingerprint is %s", got.Fingerprint)
	}
	got.noted(t, `nothing was promoted to tier "a" yet: the node waits for builder promote a, and the line has no --min-seq`,
		"only this machine reaches "+url("bucket")+" and "+url("channels.git")+", so the line is for a node on this machine; for one elsewhere give --channels URL --storage URL")
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"})
	got = s.enroll(elsewhere(EnrollRequest{Node: "alpha", Tier: "a"}))
	seq := s.channel("a").Seq
	want = fmt.Sprintf("puller bootstrap --app mnw --tier a --node alpha --storage s3://releases --channels https://git.example.org/x.git"+
		" --trust-fingerprint %s --min-seq %d", got.Fingerprint, seq)
	if got.Line != want || got.MinSeq != seq {
		t.Errorf("line is\n%s\nwant\n%s", got.Line, want)
	}
	got.noted(t)
}

// The anchor of a new node is the newest trust, and its floor one that states under it
// reach.
func TestEnrollTrust(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"})
	ahead := time.Now().Add(time.Hour)
	s.pushFiles("main", s.signedChannel("a", func(c *channels.Channel) { c.Seq = ahead.UnixMilli() }))
	req := elsewhere(EnrollRequest{Node: "alpha", Tier: "a"})
	if got := s.enroll(req); got.MinSeq != ahead.UnixMilli() {
		t.Errorf("min_seq is %d under the same trust, want %d", got.MinSeq, ahead.UnixMilli())
	}
	s.trust(2, func(*signing.Trust) {})
	before := time.Now().UnixMilli()
	got := s.enroll(req)
	if got.MinSeq < before || got.MinSeq > time.Now().UnixMilli() || got.Trust != 2 {
		t.Errorf("min_seq is %d under trust %d, want one of the clock", got.MinSeq, got.Trust)
	}
	s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"})
	if c := s.channel("a"); c.Trust != 2 || c.Seq < got.MinSeq {
		t.Errorf("the next state has seq %d, below the min_seq %d", c.Seq, got.MinSeq)
	}
	r, err := repo.Open(t.TempDir(), repo.Config{URL: FileURL(s.dir + "/channels.git"), Branch: "main"})
	if err != nil {
		t.Fatal(err)
	}
	head, err := r.Fetch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if doc, err := head.Read(repo.TrustFile(2), layout.MaxTrust); err != nil || layout.Sum(doc) != got.Fingerprint {
		t.Errorf("fingerprint is not that of trust/2.json: %v", err)
	}
}

func TestEnrollNotes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll(elsewhere(EnrollRequest{Node: "alpha", Tier: "host"})).noted(t, `nothing was promoted to tier "host" yet: the node waits for builder release, and`)
	s.fleet(`name = "b"`, "name = \"b\"\nprovisioned = false")
	s.enroll(elsewhere(EnrollRequest{Node: "alpha", Tier: "b"})).noted(t, `tier "b" is not provisioned`)
	s.enroll(EnrollRequest{Node: "alpha", Tier: "a", Storage: "s3://releases", Channels: enroll.Bucket}).noted(t,
		`nothing was promoted to tier "a" yet`, "trust version 1 is not in the bucket yet: run builder mirror", "has no channels.mirror = true")
	s.edit(`auto = ["host"]`, "auto = [\"host\"]\nmirror = true")
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a"})
	got := s.enroll(EnrollRequest{Node: "alpha", Tier: "a", Storage: "s3://releases", Channels: enroll.Bucket})
	got.noted(t)
	if !strings.Contains(got.Line, " --channels bucket ") {
		t.Errorf("line is %s", got.Line)
	}
	s.enroll(elsewhere(EnrollRequest{Node: "alpha", Tier: "a", Record: true})).noted(t)
	s.enroll(elsewhere(EnrollRequest{Node: "alpha", Tier: "host"})).noted(t, `fleet.toml has alpha in tier "a": with --record it says "host"`)
	s.pushFiles("main", map[string][]byte{"trust/1.json": []byte("{}\n"), "channels/a.json": []byte("{}\n")})
	s.enroll(elsewhere(EnrollRequest{Node: "alpha", Tier: "a"})).noted(t,
		`nodes refuse what the channel repo has for tier "a"`, "does not have trust version 1 as this builder has it: copy "+s.dir+"/keys/trust.json to the node")
}

func TestEnrollRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	before := s.snapshot("bucket", "channels.git/refs")
	good := EnrollRequest{Node: "alpha", Tier: "a", Record: true}
	for _, test := range []struct {
		change func(*EnrollRequest)
		want   string
	}{
		{func(r *EnrollRequest) { r.Node = "a b" }, `malformed name: node "a b"`},
		{func(r *EnrollRequest) { r.Node = "" }, `malformed name: node ""`},
		{func(r *EnrollRequest) { r.Tier = "x" }, `tier "x" is not in fleet.toml: it has host, a, b`},
		{func(r *EnrollRequest) { r.Storage = "releases" }, "--storage: "},
		{func(r *EnrollRequest) { r.Storage = "https://s3.example.org" }, "--storage: "},
		{func(r *EnrollRequest) { r.Channels = "git@git.example.org:x" }, "--channels: "},
		{func(r *EnrollRequest) { r.Channels = "https://ada:geheim@git.example.org/x" }, "--channels: repo URL"},
		{func(r *EnrollRequest) { r.Rest = []string{"--node", "beta"} }, "--node behind --"},
		{func(r *EnrollRequest) { r.Rest = []string{"--bogus"} }, `"--bogus" behind --: puller bootstrap has no such flag`},
	} {
		req := good
		test.change(&req)
		got, err := s.builder().Enroll(t.Context(), req)
		if got != nil || reason.Of(err) != reason.Config || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%+v: %v, %v", req, got, err)
		}
	}
	if diff := cmp.Diff(before, s.snapshot("bucket", "channels.git/refs")); diff != "" {
		t.Errorf("something changed:\n%s", diff)
	}
	s.enroll(good)
}

func (s *site) fleetToml() string {
	s.t.Helper()
	return s.git(s.dir+"/channels.git", "show", "main:fleet.toml")
}

func TestEnrollRecord(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	text := s.fleetToml()
	req := EnrollRequest{Node: "alpha", Tier: "a", Record: true}
	got := s.enroll(req)
	if want := text + "\n\n[[node]]\nname = \"alpha\"\ntier = \"a\""; s.fleetToml() != want || got.Outcome != OutcomeRecorded {
		t.Errorf("%s; fleet.toml is\n%s\nwant\n%s", got.Outcome, s.fleetToml(), want)
	}
	if log := s.git(s.dir+"/channels.git", "log", "-1", "--format=%H %s", "main"); log != got.Commit+" enroll alpha into tier a" {
		t.Errorf("commit is %q, want %s", log, got.Commit)
	}
	if again := s.enroll(req); again.Outcome != OutcomeAlready || again.Commit != got.Commit || again.Previous != "" || again.Line != got.Line {
		t.Errorf("again: %+v", again)
	}
	req.Tier = "b"
	if moved := s.enroll(req); moved.Outcome != OutcomeRecorded || moved.Previous != "a" || s.fleetToml() != text+"\n\n[[node]]\nname = \"alpha\"\ntier = \"b\"" {
		t.Errorf("%+v\n%s", moved, s.fleetToml())
	}
	s.fleet("[[node]]\n", "[[nodes]]\n")
	if _, err := s.builder().Enroll(t.Context(), req); reason.Of(err) != reason.Config {
		t.Errorf("a fleet.toml that is no good: %v", err)
	}
}

// Several people enroll nodes at once, on several hosts: each gets its entry.
func TestEnrollAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	names := []string{"n-1", "n-2", "n-3", "n-4"}
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		b := s.builder(inState(t.TempDir()))
		all.Go(func() {
			_, errs[i] = b.Enroll(t.Context(), EnrollRequest{Node: name, Tier: "a", Record: true})
		})
	}
	all.Wait()
	f, err := channels.ParseFleet(append([]byte(s.fleetToml()), '\n'))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if n, there := f.Node(name); errs[i] != nil || !there || n.Tier != "a" {
			t.Errorf("%s: %v, there: %t", name, errs[i], there)
		}
	}
	if len(f.Nodes) != len(names) {
		t.Errorf("nodes are %+v", f.Nodes)
	}
}

// What a person wrote into fleet.toml is as it was, byte for byte.
func TestEnrollKeepsText(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	text := []byte("app = 'mnw' # ours\r\n\r\n[[tier]]\r\n  name = \"a\"\r\n# the end")
	s.pushFiles("main", map[string][]byte{"fleet.toml": text})
	s.enroll(EnrollRequest{Node: "alpha", Tier: "a", Record: true})
	got := s.fleetToml()
	if want := "\r\n\r\n[[node]]\r\nname = \"alpha\"\r\ntier = \"a\""; !bytes.HasPrefix([]byte(got), text) || got[len(text):] != want {
		t.Errorf("fleet.toml is %q", got)
	}
}
