package builder

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"makenot.work/sando/builder/source"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// InitRequest says what to set up.
type InitRequest struct {
	Dir    string // made when missing
	App    string
	Source string   // URL of the source repository; "" to be filled in later
	Tiers  []string // in order; nil: host, a, b
	// Passphrase seals the private keys. It is called when everything else was checked.
	Passphrase func(ctx context.Context) ([]byte, error)
}

// Initialized is what Init made.
type Initialized struct {
	App         string        `json:"app"`
	Dir         string        `json:"dir"`
	Config      string        `json:"config"`
	Trust       string        `json:"trust"`       // the anchor, to be copied to every node
	Fingerprint layout.Digest `json:"fingerprint"` // of the bytes of that file
	Keys        []Key         `json:"keys"`
	Repo        string        `json:"repo"`   // URL of the channel repo
	Bucket      string        `json:"bucket"` // URL
	Tiers       []string      `json:"tiers"`
}

// Key is a key pair on disk.
type Key struct {
	Kid     string `json:"kid"`
	Private string `json:"private"` // file
	Public  string `json:"public"`  // file
}

// What Init makes in its directory, in the order in which it appears. The first keys
// are the root keys.
var (
	initKeys   = [...]string{"root-1", "root-2", "release", "channel"}
	initPieces = [...]string{"keys", "channels.git", "bucket", localConfig}
)

const (
	rootKeys    = 2
	initScratch = ".builder-init" // everything is made in here, then moved
	initBranch  = "main"
)

// Init sets up a builder in a directory: keys, the first trust document, a channel
// repo, a bucket and a configuration. It refuses (reason "config") a directory that has
// any of these, and leaves none of them behind when it fails.
func Init(ctx context.Context, req InitRequest) (out *Initialized, err error) {
	if len(req.Tiers) == 0 {
		req.Tiers = []string{"host", "a", "b"}
	}
	if err := req.check(); err != nil {
		return nil, err
	}
	if req.Dir, err = filepath.Abs(req.Dir); err != nil {
		return nil, err
	}
	if err := req.free(); err != nil {
		return nil, err
	}
	pass, err := req.Passphrase(ctx)
	if err != nil {
		return nil, err
	}
	if _, serr := os.Lstat(req.Dir); missing(serr) {
		defer func() {
			if err != nil {
				os.Remove(req.Dir) // made here; kept if something else came in
			}
		}()
	}
	if err := durable.MkdirAll(req.Dir, 0o755); err != nil {
		return nil, err
	}
	tmp, done, err := req.scratch()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if out, err = req.make(ctx, tmp, pass); err != nil {
		return nil, err
	}
	return out, req.place(ctx, tmp)
}

func (req *InitRequest) check() error {
	if err := layout.CheckApp(req.App); err != nil {
		return reason.Wrap(reason.Config, err)
	}
	for i, t := range req.Tiers {
		if err := layout.CheckTier(t); err != nil {
			return reason.Wrap(reason.Config, err)
		}
		if slices.Contains(req.Tiers[:i], t) {
			return reason.Errorf(reason.Config, "tier %q is there twice", t)
		}
	}
	if req.Source == "" {
		return nil
	}
	if strings.ContainsAny(req.Source, "\"\\\n") {
		return reason.Errorf(reason.Config, "source %q holds a character that no URL has", req.Source)
	}
	dir, err := filepath.Abs(".") // a path is relative to where the command was typed
	if err != nil {
		return err
	}
	req.Source = localURL(dir, req.Source)
	if u, err := url.Parse(req.Source); err == nil && u.Scheme == "file" {
		if info, err := os.Stat(u.Path); missing(err) || err == nil && !info.IsDir() {
			return reason.Errorf(reason.Config, "source %q is no directory of this machine: without --source it can be filled in later", u.Path)
		}
	}
	return source.CheckURL(req.Source)
}

// free reports whether nothing that Init makes is there.
func (req *InitRequest) free() error {
	for _, name := range initPieces {
		path := filepath.Join(req.Dir, name)
		if _, err := os.Lstat(path); err == nil {
			return reason.Errorf(reason.Config, "%q is there already: nothing was made or changed; choose another directory, or move it away", path)
		} else if !missing(err) {
			return err
		}
	}
	return nil
}

// scratch makes the directory in which everything is made, and returns what removes it.
// One that a killed Init left is taken over; one in use is refused.
func (req *InitRequest) scratch() (tmp string, done func() error, err error) {
	tmp = filepath.Join(req.Dir, initScratch)
	if err := durable.MkdirAll(tmp, 0o700); err != nil {
		return "", nil, err
	}
	d, err := os.Open(tmp)
	if err != nil {
		return "", nil, err
	}
	done = func() error { return errors.Join(os.RemoveAll(tmp), d.Close()) }
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", nil, errors.Join(reason.Errorf(reason.Config, "another builder init is at work in %q: %w", req.Dir, err), d.Close())
	}
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return "", nil, errors.Join(err, done())
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(tmp, e.Name())); err != nil {
			return "", nil, errors.Join(err, done())
		}
	}
	return tmp, done, nil
}

// make makes all pieces in tmp.
func (req *InitRequest) make(ctx context.Context, tmp string, pass []byte) (*Initialized, error) {
	dir := filepath.Join(tmp, "keys")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	var signers []*keys.Signer
	out := &Initialized{
		App: req.App, Dir: req.Dir, Tiers: req.Tiers, Config: filepath.Join(req.Dir, localConfig),
		Trust: filepath.Join(req.Dir, "keys", "trust.json"),
		Repo:  FileURL(filepath.Join(req.Dir, "channels.git")), Bucket: FileURL(filepath.Join(req.Dir, "bucket")),
	}
	for _, name := range initKeys {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s, key, err := writeKey(filepath.Join(dir, name), pass)
		if err != nil {
			return nil, err
		}
		signers = append(signers, s)
		out.Keys = append(out.Keys, Key{key.Kid, filepath.Join(req.Dir, "keys", name+".key"), filepath.Join(req.Dir, "keys", name+".pub")})
	}
	trust, err := firstTrust(req.App, signers)
	if err != nil {
		return nil, err
	}
	out.Fingerprint = layout.Sum(trust)
	if err := durable.WriteFile(filepath.Join(dir, "trust.json"), trust, 0o644); err != nil {
		return nil, err
	}
	files, err := req.channelFiles(trust, signers[:rootKeys])
	if err != nil {
		return nil, err
	}
	if err := repo.Create(ctx, FileURL(filepath.Join(tmp, "channels.git")), initBranch, author(), files); err != nil {
		return nil, err
	}
	if err := durable.Mkdir(filepath.Join(tmp, "bucket"), 0o755); err != nil {
		return nil, err
	}
	return out, durable.WriteFile(filepath.Join(tmp, localConfig), []byte(req.configText()), 0o644)
}

// place moves the pieces to where they belong, and takes those back that it moved when
// one cannot be. The configuration comes last: with it the set-up is complete.
func (req *InitRequest) place(ctx context.Context, tmp string) (err error) {
	var placed []string
	defer func() {
		if err == nil {
			return
		}
		for _, name := range placed {
			err = errors.Join(err, durable.Rename(filepath.Join(req.Dir, name), filepath.Join(tmp, name)))
		}
	}()
	if err := req.free(); err != nil { // with the lock held
		return err
	}
	for _, name := range initPieces {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := durable.Rename(filepath.Join(tmp, name), filepath.Join(req.Dir, name)); err != nil {
			return err
		}
		placed = append(placed, name)
	}
	return nil
}

// firstTrust returns version 1 of trust: of two root keys one is enough, so that one
// may be lost.
func firstTrust(app string, s []*keys.Signer) ([]byte, error) {
	t := &signing.Trust{
		Schema: signing.TrustSchema, App: app, Version: 1,
		Keys: map[string]canon.PEM{}, Roles: map[string]signing.Role{},
	}
	for i, key := range s {
		t.Keys[key.Public().Kid()] = key.Public().PEM()
		if i >= rootKeys {
			t.Roles[initKeys[i]] = signing.Role{Keys: []string{key.Public().Kid()}, Threshold: 1}
		}
	}
	root := []string{s[0].Public().Kid(), s[1].Public().Kid()}
	slices.Sort(root)
	t.Roles[signing.RoleRoot] = signing.Role{Keys: root, Threshold: 1}
	return t.Encode()
}

// channelFiles returns what the channel repo begins with.
func (req *InitRequest) channelFiles(trust []byte, root []*keys.Signer) (map[string][]byte, error) {
	files := map[string][]byte{
		fleetFile:         []byte(req.fleetText()),
		".gitattributes":  []byte(attributes),
		repo.TrustFile(1): trust,
	}
	for _, key := range root {
		sig, err := key.Sign(trust)
		if err != nil {
			return nil, err
		}
		files[signing.SignatureFile(repo.TrustFile(1), key.Public().Kid())] = sig
	}
	return files, nil
}

// Keygen makes one key pair, name.key and name.pub. It overwrites nothing.
func Keygen(name string, pass []byte) (*Key, error) {
	for _, suffix := range []string{".key", ".pub"} {
		if _, err := os.Lstat(name + suffix); err == nil {
			return nil, reason.Errorf(reason.Config, "%q is there already: choose another name", name+suffix)
		} else if !missing(err) {
			return nil, reason.Wrap(reason.Config, err)
		}
	}
	_, key, err := writeKey(name, pass)
	return key, err
}

func writeKey(name string, pass []byte) (*keys.Signer, *Key, error) {
	s, err := keys.New()
	if err != nil {
		return nil, nil, err
	}
	sealed, err := s.Seal(pass)
	if err != nil {
		return nil, nil, err
	}
	key := &Key{Kid: s.Public().Kid(), Private: name + ".key", Public: name + ".pub"}
	if err := durable.Create(key.Private, strings.NewReader(string(sealed)), 0o600); err != nil {
		return nil, nil, fmt.Errorf("private key: %w", err)
	}
	if err := durable.Create(key.Public, strings.NewReader(string(s.Public().PEM())), 0o644); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("public key: %w", err), os.Remove(key.Private))
	}
	return s, key, nil
}
