package bootstrap

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
)

// conflict is what a configuration that is there says otherwise than these flags do.
type conflict struct{ key, flag, have, want string }

func differing(all []conflict) (found []conflict) {
	for _, c := range all {
		if c.have != c.want {
			found = append(found, c)
		}
	}
	return found
}

// compare refuses to set up one thing for a configuration that says another: the line may be one
// of another node. What it says otherwise of where things are fetched from is remembered: that
// is told when all else was done.
func (n *Node) compare(file string, have, want *puller.Config) error {
	for _, c := range differing([]conflict{
		{"app", "--app", have.App, n.o.App},
		{"tier", "--tier", have.Tier, n.o.Tier},
		{"node", "--node", have.Node, cmp.Or(n.o.Node, have.Node)},
		{"root", "--root", have.Root, n.o.Root},
		{"service.unit", "--unit", have.Service.Unit, n.o.Unit},
	}) {
		return refuse("%s says %s = %q, and this command %q: give %s %[3]s, or, if this command is right, `%[6]s`, and run it again; nothing was changed", file, c.key, c.have, c.want, c.flag, c.mend(file))
	}
	if anchor := n.o.anchorFile(); have.Trust != anchor {
		return refuse("%s says trust = %q, and the anchor that this command looks after is %s: put it there, and leave that key out of the file", file, have.Trust, anchor)
	}
	h, w := &have.Storage, &want.Storage
	n.otherwise = differing([]conflict{
		{"channels.source", "--channels", have.Channels.Source, want.Channels.Source},
		{"channels.repo", "--channels", have.Channels.Repo, want.Channels.Repo},
		{"channels.branch", "--branch", have.Channels.Branch, want.Channels.Branch},
		{"channels.path", "--path", have.Channels.Path, want.Channels.Path},
		{"storage.url", "--storage", h.URL, w.URL},
		{"storage.endpoint", "--endpoint", h.Endpoint, w.Endpoint},
		{"storage.region", "--region", h.Region, cmp.Or(w.Region, h.Region)},
		{"storage.path_style", "--path-style", strconv.FormatBool(h.PathStyle), strconv.FormatBool(w.PathStyle || h.PathStyle)},
		{"storage.anonymous", "--anonymous", strconv.FormatBool(h.Anonymous), strconv.FormatBool(w.Anonymous)},
	})
	return nil
}

// mend is a command by which this command's value counts.
func (c conflict) mend(file string) string {
	if c.key == "tier" { // it is always there, and the rest of the file stays as it is
		return fmt.Sprintf(`sed -i 's/^[[:space:]]*tier[[:space:]]*=.*/tier = "%s"/' %s`, c.want, file)
	}
	return fmt.Sprintf("mv %s %[1]s.old", file)
}

// Otherwise says where the configuration that was there, and stays, has things fetched from
// elsewhere than this command says, and what a person does about it. Its reason is "config"; nil:
// nowhere.
func (n *Node) Otherwise() error {
	if len(n.otherwise) == 0 {
		return nil
	}
	file := n.o.configFile()
	var says []string
	for _, c := range n.otherwise {
		says = append(says, fmt.Sprintf("%s = %q, and this command %q", c.key, c.have, c.want))
	}
	return reason.Errorf(reason.Config, "%s was there already, and counts as it is. It says %s: if this command is right, `%s`, and run it again",
		file, strings.Join(says, "; "), n.otherwise[0].mend(file))
}
