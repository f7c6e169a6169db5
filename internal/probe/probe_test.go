package probe

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func server(t *testing.T, status int, body string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/health", http.StatusFound)
			return
		}
		w.WriteHeader(status)
		w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestRun(t *testing.T) {
	const good = `{"status":"operational","version":"0.9.5+build7","n":3000000,"ok":true,"db":{"up":"yes","x":1}}`
	fields := map[string]any{"status": "operational", "version": "{version}", "n": int64(3000000), "ok": true, "db": map[string]any{"up": "yes"}}
	for name, c := range map[string]struct {
		status int
		body   string
		path   string
		want   string
	}{
		"good":            {200, good, "/health", ""},
		"500":             {500, good, "/health", "status is 500, want 200"},
		"redirect":        {200, good, "/moved", "status is 302, want 200"},
		"other version":   {200, strings.Replace(good, "0.9.5", "0.9.4", 1), "/health", `field "version" is "0.9.4+build7", want "0.9.5"`},
		"other status":    {200, strings.Replace(good, "operational", "starting", 1), "/health", `field "status" is "starting", want "operational"`},
		"missing nested":  {200, strings.Replace(good, `"up"`, `"down"`, 1), "/health", `field "db.up" is missing`},
		"nested no table": {200, strings.Replace(good, `{"up":"yes","x":1}`, `5`, 1), "/health", `field "db" is "5"`},
		"no JSON":         {200, "ok", "/health", "answer is no JSON object"},
		"not a bool":      {200, strings.Replace(good, "true", "false", 1), "/health", `field "ok" is "false", want "true"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := Probe{URL: server(t, c.status, c.body) + c.path, JSON: fields}
			err := p.Run(t.Context(), "0.9.5+other")
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want unhealthy: …%s…", err, c.want)
			}
		})
	}
}

func TestSmoke(t *testing.T) {
	up, down := server(t, 200, ""), server(t, 404, "")
	if err := (Probe{Smoke: []string{up}}).Run(t.Context(), "1"); err != nil {
		t.Error(err)
	}
	err := Probe{Smoke: []string{up, down}}.Run(t.Context(), "1")
	if !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), "smoke "+down+": status is 404") {
		t.Errorf("got %v", err)
	}
}

func TestNobodyListens(t *testing.T) {
	s := httptest.NewServer(nil)
	s.Close()
	err := Probe{URL: s.URL}.Run(t.Context(), "1")
	if !errors.Is(err, ErrUnhealthy) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
}

func TestCheck(t *testing.T) {
	for u, ok := range map[string]bool{"http://127.0.0.1:1/x": true, "https://a/": true, "file:///etc/passwd": false, "127.0.0.1:80": false, "http://": false} {
		if err := (Probe{URL: u}).Check(); (err == nil) != ok {
			t.Errorf("Check(%q) = %v", u, err)
		}
	}
	if (Probe{JSON: map[string]any{"a": "b"}}).Check() == nil {
		t.Error("json fields without a URL were accepted")
	}
}
