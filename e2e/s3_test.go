package e2e

import (
	"hash/fnv"
	"io"
	"net/http"
	"sync"
	"testing"

	"makenot.work/sando/internal/testenv/hostile"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/internal/testenv/secrets"
)

// TestS3 publishes to a real server and updates a node from it, by credentials that may do
// no more than they must, while requests fail now and then.
func TestS3(t *testing.T) {
	server := minio.Start(t, minio.Options{})
	name := server.Bucket(t, minio.Private)
	builder := server.User(t, minio.Allow([]string{"s3:GetObject", "s3:PutObject"}, name+"/apps/mnw/*"))
	node := server.User(t, minio.Allow([]string{"s3:GetObject"}, name+"/apps/mnw/*"))
	s := newSite(t, "1.0", "2.0")
	m := s.machine("node")
	files := []string{"--set", "storage.access_key_file=" + node.AccessKeyFile, "--set", "storage.secret_key_file=" + node.SecretKeyFile}

	proxy := hostile.Start(t, hostile.Server{Endpoint: server.Endpoint, Region: server.Region})
	proxy.Script(nowAndThen())
	t.Setenv("SANDO__STORAGE__URL", "s3://"+name+"/apps")
	t.Setenv("SANDO__STORAGE__ENDPOINT", proxy.Endpoint)
	t.Setenv("SANDO__STORAGE__ACCESS_KEY_FILE", builder.AccessKeyFile)
	t.Setenv("SANDO__STORAGE__SECRET_KEY_FILE", builder.SecretKeyFile)

	for _, version := range []string{"1.0", "2.0"} {
		s.release(version)
		s.release(version) // stands
		s.promote(version)
		if got := m.cycle(0, files...); got != "updated" {
			t.Errorf("%s: the puller says %s", version, got)
		}
		m.settled(version)
		s.run(0, "builder", "verify", version)
	}
	if got := m.cycle(0, files...); got != "current" {
		t.Errorf("idle, the puller says %s", got)
	}

	for _, r := range proxy.Seen() {
		if r.Path == "/" || r.Path == "/"+name || r.Path == "/"+name+"/" || r.Query != "" {
			t.Errorf("asked %s?%s: no object", r, r.Query)
		}
	}
	found := secrets.Of(t, secrets.File(t, builder.SecretKeyFile), secrets.File(t, node.SecretKeyFile),
		secrets.File(t, builder.AccessKeyFile), secrets.File(t, node.AccessKeyFile), secrets.Presigned())
	for _, f := range found.Tree(t, s.dir) {
		t.Error(f)
	}
}

// nowAndThen fails a third of the requests, each once.
func nowAndThen() func(int, *http.Request) hostile.Fault {
	var mu sync.Mutex
	seen := map[string]bool{}
	return func(_ int, r *http.Request) hostile.Fault {
		key := r.Method + " " + r.URL.Path
		h := fnv.New32a()
		io.WriteString(h, key)
		mu.Lock()
		defer mu.Unlock()
		if seen[key] {
			return nil
		}
		seen[key] = true
		switch h.Sum32() % 12 {
		case 0:
			return hostile.Answer(http.StatusServiceUnavailable, "SlowDown", "Retry-After", "1")
		case 1:
			return hostile.Refuse()
		case 2, 3:
			return hostile.Lose()
		}
		return nil
	}
}
