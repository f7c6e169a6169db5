package guides

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// TestMain runs the tests, or, under another name, the app that the guides operate: building
// one for each of its many versions would take most of the time.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "guide-app" {
		fmt.Fprintln(os.Stderr, serve(os.Args[1]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// serve answers as the version in the file VERSION of a directory, unless the file HOW in it says
// what there is to say before it ends.
func serve(dir string) error {
	version, err := os.ReadFile(filepath.Join(dir, "VERSION"))
	if err != nil {
		return err
	}
	how, err := os.ReadFile(filepath.Join(dir, "HOW"))
	if err != nil {
		return err
	}
	if said := bytes.TrimSpace(how); string(said) != "serves" {
		return fmt.Errorf("%s", said)
	}
	for path, form := range map[string]string{"/health": "{\"version\": %q}\n", "/api/health": "{\"status\":\"operational\",\"version\":%q}\n"} {
		http.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, form, bytes.TrimSpace(version)) })
	}
	return http.ListenAndServe("127.0.0.1:8080", nil)
}
