package node

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// channelFile is the file of a tier's last accepted channel state.
func channelFile(tier string) string { return tier + ".json" }

// channelSignature names a signature for the bytes that it is over, so that a crash
// between two writes leaves no document with another one's signature.
func channelSignature(tier string, digest layout.Digest, kid string) string {
	return tier + "-" + digest.Short() + "." + layout.Short(kid) + ".sigstore.json"
}

func trustFile(n int64) string { return strconv.FormatInt(n, 10) + ".json" }

func trustSignature(n int64, kid string) string {
	return trustFile(n) + "." + layout.Short(kid) + ".sigstore.json"
}

// Channel returns the bytes of the last accepted state of tier, with fs.ErrNotExist
// when none was accepted.
func (d *Dir) Channel(tier string) ([]byte, error) {
	return d.readDoc("channels", channelFile(tier), layout.MaxChannel)
}

// ChannelSignatures returns the stored signatures by kids over the bytes doc.
func (d *Dir) ChannelSignatures(tier string, doc []byte, kids []string) (map[string][]byte, error) {
	digest := layout.Sum(doc)
	return readSignatures(d.Path("channels"), kids, func(kid string) string { return channelSignature(tier, digest, kid) })
}

// SaveChannel makes doc the last accepted state of tier. The signatures are durable
// before the document is; those of older states are removed afterwards.
func (d *Dir) SaveChannel(tier string, doc []byte, sigs map[string][]byte) error {
	digest := layout.Sum(doc)
	keep := map[string]bool{}
	for _, kid := range slices.Sorted(maps.Keys(sigs)) {
		name := channelSignature(tier, digest, kid)
		keep[name] = true
		if err := d.save(filepath.Join("channels", name), sigs[kid]); err != nil {
			return err
		}
	}
	if err := d.save(filepath.Join("channels", channelFile(tier)), doc); err != nil {
		return err
	}
	names, err := d.list("channels")
	if err != nil {
		return err
	}
	for _, n := range names {
		old := strings.HasPrefix(n, tier+"-") && strings.HasSuffix(n, ".sigstore.json") && len(n) == len(tier)+len("-.")+32+len(".sigstore.json")
		if old && !keep[n] {
			if err := os.Remove(d.Path("channels", n)); err != nil {
				return reason.OnDisk(err)
			}
		}
	}
	return nil
}

// TrustVersions returns the versions of the stored trust chain, in order.
func (d *Dir) TrustVersions() ([]int64, error) {
	names, err := d.list("trust")
	if err != nil {
		return nil, err
	}
	var versions []int64
	for _, name := range names {
		n, err := strconv.ParseInt(strings.TrimSuffix(name, ".json"), 10, 64)
		if err == nil && trustFile(n) == name {
			versions = append(versions, n)
		}
	}
	slices.Sort(versions)
	return versions, nil
}

// Trust returns the bytes of version n of the stored trust chain.
func (d *Dir) Trust(n int64) ([]byte, error) {
	return d.readDoc("trust", trustFile(n), layout.MaxTrust)
}

// TrustSignatures returns the stored signatures by kids over version n.
func (d *Dir) TrustSignatures(n int64, kids []string) (map[string][]byte, error) {
	return readSignatures(d.Path("trust"), kids, func(kid string) string { return trustSignature(n, kid) })
}

// SaveTrust adds version n to the trust chain; the document is written last.
func (d *Dir) SaveTrust(n int64, doc []byte, sigs map[string][]byte) error {
	for _, kid := range slices.Sorted(maps.Keys(sigs)) {
		if err := d.save(filepath.Join("trust", trustSignature(n, kid)), sigs[kid]); err != nil {
			return err
		}
	}
	return d.save(filepath.Join("trust", trustFile(n)), doc)
}

// ForgetTrust removes the whole trust chain, and with counters set the last accepted
// channel states as well, those first: a crash in between is seen and repeated.
func (d *Dir) ForgetTrust(counters bool) error {
	dirs := []string{"trust"}
	if counters {
		dirs = []string{"channels", "trust"}
	}
	for _, dir := range dirs {
		names, err := d.list(dir)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := os.RemoveAll(d.Path(dir, n)); err != nil {
				return reason.OnDisk(err)
			}
		}
		if err := durable.SyncDir(d.Path(dir)); err != nil {
			return reason.OnDisk(err)
		}
	}
	return nil
}

func (d *Dir) readDoc(dir, name string, max int64) ([]byte, error) {
	data, err := readCapped(d.Path(dir, name), max)
	if err != nil {
		return nil, reason.OnDisk(fmt.Errorf("read %s/%s: %w", dir, name, err))
	}
	return data, nil
}

// readSignatures reads those files in dir that exist and that name gives for kids.
func readSignatures(dir string, kids []string, name func(kid string) string) (map[string][]byte, error) {
	sigs := map[string][]byte{}
	for _, kid := range kids {
		data, err := readCapped(filepath.Join(dir, name(kid)), layout.MaxSignature)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, reason.OnDisk(err)
		}
		sigs[kid] = data
	}
	return sigs, nil
}

func (d *Dir) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(d.Path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}
