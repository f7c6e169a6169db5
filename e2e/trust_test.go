package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/signing"
)

// nexttrust writes the version of trust that follows the one in FILE beside it, not
// signed, with some roles changed: ROLE=KEY,KEY…/THRESHOLD, a KEY being keys/KEY.pub.
func nexttrust(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "nexttrust FILE ROLE=KEY,…/THRESHOLD…")
	name := file(ts, args[0])
	t, err := signing.ParseTrust([]byte(ts.ReadFile(name)))
	ts.Check(err)
	t.Version++
	for _, arg := range args[1:] {
		name, rest, _ := strings.Cut(arg, "=")
		list, number, _ := strings.Cut(rest, "/")
		threshold, err := strconv.Atoi(number)
		ts.Check(err)
		role := signing.Role{Threshold: threshold}
		for _, key := range strings.Split(list, ",") {
			k, err := signing.ParsePublicKey([]byte(ts.ReadFile("keys/" + key + ".pub")))
			ts.Check(err)
			role.Keys = append(role.Keys, k.Kid())
			t.Keys[k.Kid()] = k.PEM()
		}
		slices.Sort(role.Keys)
		t.Roles[name] = role
	}
	maps.DeleteFunc(t.Keys, func(kid string, _ canon.PEM) bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(t.Roles)), func(r signing.Role) bool { return slices.Contains(r.Keys, kid) })
	})
	doc, err := t.Encode()
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(filepath.Dir(name), fmt.Sprintf("%d.json", t.Version)), doc, 0o644))
}
