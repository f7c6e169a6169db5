package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func TestAnswers(t *testing.T) {
	h := handler(os.DirFS("static"))
	for path, want := range map[string]string{
		"/":           "<p>Hello, this is version 1.0.0.</p>",
		"/api/health": `{"status":"operational","version":"1.0.0"}`,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("GET %s: %d %q, want 200 with %q", path, w.Code, w.Body, want)
		}
	}
}

func TestNoAddress(t *testing.T) {
	const want = "no address to listen on is set"
	if err := run(t.Context(), ""); err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
}
