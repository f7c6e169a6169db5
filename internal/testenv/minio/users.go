package minio

import (
	"archive/zip"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// Allow returns a policy for User: actions such as s3:GetObject, on resources such as
// BUCKET/* or BUCKET, and nothing else.
func Allow(actions []string, resources ...string) string {
	return policy("", actions, resources...)
}

func policy(principal string, actions []string, resources ...string) string {
	for i, r := range resources {
		resources[i] = "arn:aws:s3:::" + r
	}
	list := func(texts []string) string {
		text, err := json.Marshal(texts)
		if err != nil {
			panic(err) // of a list of strings
		}
		return string(text)
	}
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow",%s"Action":%s,"Resource":%s}]}`,
		principal, list(actions), list(resources))
}

// newUser makes up a user, of whom the server does not know yet.
func (s *Server) newUser(t testing.TB) User {
	t.Helper()
	u := User{AccessKey: rand.Text()[:20], SecretKey: rand.Text() + rand.Text()[:14]}
	name := rand.Text()[:10] // no part of the keys: a test may look for them
	u.AccessKeyFile, u.SecretKeyFile = s.path(name+".access"), s.path(name+".secret")
	must(t, os.WriteFile(u.AccessKeyFile, []byte(u.AccessKey+"\n"), 0o600))
	must(t, os.WriteFile(u.SecretKeyFile, []byte(u.SecretKey+"\n"), 0o600))
	return u
}

// User makes a user that may do what policy says, and no more.
func (s *Server) User(t testing.TB, policy string) User {
	t.Helper()
	u := s.newUser(t)
	s.AddUser(t, u, policy)
	return u
}

// AddUser makes a user with keys that a test needs to be these.
//
// Importing a set of users is the one way into MinIO's user management that needs none of
// its own encryption.
func (s *Server) AddUser(t testing.TB, u User, policy string) {
	t.Helper()
	name := "p-" + u.AccessKey
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	for file, content := range map[string]any{
		"policies.json":      map[string]json.RawMessage{name: json.RawMessage(policy)},
		"users.json":         map[string]any{u.AccessKey: map[string]string{"secretKey": u.SecretKey, "status": "enabled"}},
		"user_mappings.json": map[string]any{u.AccessKey: map[string]any{"version": 1, "policy": name}},
	} {
		w, err := z.Create("iam-assets/" + file)
		must(t, err)
		must(t, json.NewEncoder(w).Encode(content))
	}
	must(t, z.Close())
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.Endpoint+"/minio/admin/v3/import-iam", bytes.NewReader(archive.Bytes()))
	must(t, err)
	req.Header.Set("X-Amz-Content-Sha256", fmt.Sprintf("%x", sha256.Sum256(archive.Bytes())))
	req = signer.SignV4(*req, s.Root.AccessKey, s.Root.SecretKey, "", s.Region)
	resp, err := (&http.Client{Transport: s.transport}).Do(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body) // for the message alone
		t.Fatalf("make a user: %s\n%s", resp.Status, text)
	}
}
