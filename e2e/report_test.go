package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/hostile"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/internal/testenv/secrets"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/report"
)

// TestReports: a node reports to a real server by a credential with exactly the documented
// policy, and updates whatever becomes of that.
func TestReports(t *testing.T) {
	server := minio.Start(t, minio.Options{})
	name := server.Bucket(t, minio.PublicRead)
	s := newSite(t, "1.0", "2.0")
	proxy := hostile.Start(t, hostile.Server{Endpoint: server.Endpoint, Region: server.Region})
	r := &reports{site: s, server: server, proxy: proxy, bucket: name}

	builder := server.User(t, minio.Allow([]string{"s3:GetObject", "s3:PutObject"}, name+"/mnw/*"))
	t.Setenv("SANDO__STORAGE__URL", "s3://"+name)
	t.Setenv("SANDO__STORAGE__ENDPOINT", proxy.Endpoint)
	t.Setenv("SANDO__STORAGE__ACCESS_KEY_FILE", builder.AccessKeyFile)
	t.Setenv("SANDO__STORAGE__SECRET_KEY_FILE", builder.SecretKeyFile)
	s.release("1.0")
	s.release("2.0")
	s.promote("1.0")
	for _, key := range []string{"ACCESS_KEY_FILE", "SECRET_KEY_FILE"} {
		os.Unsetenv("SANDO__STORAGE__" + key) // t.Setenv brings them back
	}
	t.Setenv("SANDO__STORAGE__ANONYMOUS", "true")

	t.Run("written", r.written)
	t.Run("policy", r.policy)
	faults := map[string]hostile.Fault{
		"denied": hostile.Answer(http.StatusForbidden, "AccessDenied"), "unknown": hostile.Answer(http.StatusForbidden, "InvalidAccessKeyId"),
		"failing": hostile.Answer(http.StatusInternalServerError, "InternalError"), "refused": hostile.Refuse(), "silent": hostile.Mute(),
	}
	proxy.Script(func(_ int, req *http.Request) hostile.Fault {
		_, object, _ := strings.Cut(req.URL.Path, "/reports/")
		return faults[strings.TrimSuffix(object, ".json")]
	})
	causes := map[string]string{
		"denied": "403 AccessDenied: these credentials may not write it; that takes s3:GetObject and s3:PutObject; " +
			"the credential of [report] must have s3:GetObject and s3:PutObject on \"mnw/reports/denied.json\"",
		"unknown": "the server does not accept these credentials", "failing": "the server answers 500", "refused": "attempt",
		"silent": "it took longer than 10s", "keyless": "report.access_key_file: open /none/access: no such file or directory",
	}
	t.Run("unwritten", func(t *testing.T) {
		for node, cause := range causes {
			u := minio.User{AccessKeyFile: "/none/access", SecretKeyFile: "/none/secret"}
			if node != "keyless" {
				u = r.user(t, node)
			}
			m := r.node(t, node, u)
			t.Run(node, func(t *testing.T) {
				t.Parallel() // they wait
				r.unwritten(t, m, node, cause)
			})
		}
	})
	t.Run("secrets", func(t *testing.T) {
		var lists [][]secrets.Secret
		for _, u := range r.users {
			lists = append(lists, secrets.File(t, u.AccessKeyFile), secrets.File(t, u.SecretKeyFile))
		}
		search := secrets.Of(t, append(lists, secrets.Presigned())...)
		for _, f := range append(search.Tree(t, s.dir), search.Text("output", r.said.Bytes())...) {
			t.Error(f)
		}
		if !bytes.Contains(r.said.Bytes(), []byte("the report is not written")) {
			t.Error("what pullers log was not searched")
		}
	})
}

// reports is the stage of TestReports.
type reports struct {
	*site
	server *minio.Server
	proxy  *hostile.Proxy
	bucket string
	users  []minio.User

	mu   sync.Mutex
	said bytes.Buffer // by pullers
}

// documented is the policy of docs/formats.md for the report of a node.
func (r *reports) documented(t *testing.T, node string) string {
	t.Helper()
	doc, err := os.ReadFile("../docs/formats.md")
	must(t, err)
	found := regexp.MustCompile("(?s)<!-- report policy -->\n```json\n(.*?)```").FindSubmatch(doc)
	if found == nil || !bytes.Contains(found[1], []byte("releases/mnw/reports/alpha-west-1.json")) {
		t.Fatal("docs/formats.md has no policy for reports")
	}
	return strings.Replace(string(found[1]), "releases/mnw/reports/alpha-west-1.json", r.bucket+"/mnw/reports/"+node+".json", 1)
}

// user is who may write the report of a node, and nothing else.
func (r *reports) user(t *testing.T, node string) minio.User {
	t.Helper()
	u := r.server.User(t, r.documented(t, node))
	r.users = append(r.users, u)
	return u
}

func (r *reports) node(t *testing.T, name string, u minio.User) *machine {
	t.Helper()
	m := r.machine(name)
	config, err := os.ReadFile(m.side + ".toml")
	must(t, err)
	config = append(config, "[report]\nenabled = true\naccess_key_file = \""+u.AccessKeyFile+"\"\nsecret_key_file = \""+u.SecretKeyFile+"\"\n"...)
	must(t, os.WriteFile(m.side+".toml", config, 0o644))
	return m
}

// cycle runs one cycle of m, with all that it says.
func (r *reports) cycle(t *testing.T, m *machine, want string) {
	t.Helper()
	cmd := m.puller("--verbose", "--json")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	r.say(out.String())
	if err != nil || !strings.Contains(out.String(), `"reason": "`+want+`"`) {
		t.Fatalf("%v: want %s\n%s", err, want, out.String())
	}
}

func (r *reports) report(t *testing.T, node string) *report.Report {
	t.Helper()
	b, err := bucket.Open(t.Context(), bucket.Config{URL: "s3://" + r.bucket, Endpoint: r.server.Endpoint, Anonymous: true})
	must(t, err)
	data, err := bucket.ReadAll(t.Context(), b, layout.ReportKey("mnw", node), layout.MaxReport)
	must(t, err)
	said, err := report.Parse(data, report.Want{App: "mnw", Node: node, Now: time.Now(), Ahead: 2 * time.Second})
	must(t, err)
	return said
}

// written follows the reports of a node that is well.
func (r *reports) written(t *testing.T) {
	m := r.node(t, "alpha", r.user(t, "alpha"))
	r.cycle(t, m, "updated")
	m.settled("1.0")
	first := r.report(t, "alpha")
	if !first.Healthy || first.Running == nil || first.Running.Version != "1.0" || first.Reason != reason.Current || first.Counter == nil || first.Disk.Free == 0 {
		t.Errorf("it says %+v", first)
	}
	r.cycle(t, m, "current")
	if got := r.asked("alpha"); got != "HEAD PUT GET" {
		t.Errorf("asked %q", got)
	}
	r.promote("2.0")
	r.cycle(t, m, "updated")
	again := r.report(t, "alpha")
	if again.Running.Version != "2.0" || again.Instance != first.Instance || again.Failure != nil {
		t.Errorf("it says %+v", again)
	}
	if got := r.asked("alpha"); got != "HEAD PUT GET HEAD PUT GET" {
		t.Errorf("asked %q", got)
	}
	r.promote("1.0")
}

// asked returns what was asked about the report of a node.
func (r *reports) asked(node string) string {
	var methods []string
	for _, req := range r.proxy.Seen() {
		if strings.HasSuffix(req.Path, "/reports/"+node+".json") {
			methods = append(methods, req.Method)
		}
	}
	return strings.Join(methods, " ")
}

// policy: the credential of a report can write it, and can write and read nothing else. So the
// bucket is not one that anybody may read here.
func (r *reports) policy(t *testing.T) {
	private := &reports{site: r.site, server: r.server, bucket: r.server.Bucket(t, minio.Private)}
	config := func(u minio.User) bucket.Config {
		return bucket.Config{URL: "s3://" + private.bucket, Endpoint: r.server.Endpoint, AccessKeyFile: u.AccessKeyFile, SecretKeyFile: u.SecretKeyFile}
	}
	root, err := bucket.Open(t.Context(), config(r.server.Root))
	must(t, err)
	node, err := bucket.Open(t.Context(), config(private.user(t, "alpha")))
	must(t, err)
	r.users = append(r.users, private.users...)
	try := func(b bucket.Bucket, key string) error {
		_, now, err := b.Poll(context.Background(), key, "", 100)
		if err != nil {
			now = ""
		}
		_, err = b.Replace(context.Background(), key, []byte("{}"), now)
		return err
	}
	own := layout.ReportKey("mnw", "alpha")
	for range 2 {
		if err := try(node, own); err != nil {
			t.Errorf("its own: %v", err)
		}
	}
	for _, key := range []string{
		layout.ReportKey("mnw", "alpha-west-1"), layout.ReportKey("mnw", "alph"), layout.ReportKey("wiki", "alpha"), "mnw/reports/alpha.json.json", "mnw/reports/ALPHA.json",
		layout.ChannelKey("mnw", "a"), layout.TrustKey("mnw", 1), layout.ReleaseKey("mnw", "1.0", layout.ManifestLatest), "mnw/reports", "x",
	} {
		if err := try(node, key); err == nil || !strings.Contains(err.Error(), "403 AccessDenied") {
			t.Errorf("write %s: error is %v, want 403", key, err)
		}
		if strings.HasPrefix(own, key+"/") {
			continue // nobody can make that here
		}
		must(t, try(root, key))
		if _, _, err := node.Poll(t.Context(), key, "", 100); err == nil {
			t.Errorf("it can read %s", key)
		}
		if err := try(node, key); err == nil || !strings.Contains(err.Error(), "403 AccessDenied") {
			t.Errorf("write %s, which is there: error is %v, want 403", key, err)
		}
	}
}

// unwritten demands that a node updates as ever, and that status says why it does not report.
func (r *reports) unwritten(t *testing.T, m *machine, node, cause string) {
	t.Helper()
	r.cycle(t, m, "updated")
	m.settled("1.0")
	out := finish(t, m.puller("status", "--json"), 0)
	r.say(out)
	var status struct {
		Reason reason.Code
		Report struct {
			Problem *struct{ Cause string }
		}
	}
	must(t, json.Unmarshal([]byte(out), &status))
	if p := status.Report.Problem; status.Reason != reason.Current || p == nil || !strings.Contains(p.Cause, cause) {
		t.Errorf("status is\n%s\nwant a problem with %s", out, cause)
	}
	before := r.asked(node)
	r.cycle(t, m, "current")
	if again := r.asked(node); again != before { // not again at once
		t.Errorf("asked %q, then %q", before, again)
	}
}

func (r *reports) say(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said.WriteString(text)
}
