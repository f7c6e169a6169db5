package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/puller/oldroot"
)

func TestWriteOldRoot(t *testing.T) {
	refs := []oldroot.Reference{
		{File: "/etc/cron.d/mnw", Line: 3, What: "crontab", Text: "0 5 * * * mnw /opt/old/x"},
		{File: "/opt/mnw/current/app", Offset: 99, What: "live release 1.0", Text: "open /opt/old/conf"},
	}
	asides := []oldroot.Reference{{File: "/etc/nginx/a\nb", Line: 1, What: "nginx configuration", Text: "# /opt/old", Aside: "a comment"}}
	unread := []oldroot.Unread{{File: "/etc/sudoers", Why: "permission denied"}}
	for name, c := range map[string]struct {
		report oldroot.Report
		want   string
	}{
		"nothing": {oldroot.Report{Old: "/opt/old"}, "nothing that was looked at needs /opt/old\n"},
		"not all was looked at": {oldroot.Report{Old: "/opt/old", Unread: unread}, `nothing that was looked at needs /opt/old
not looked at:
  /etc/sudoers: permission denied
look again as root, or at those places yourself, before you remove /opt/old
`},
		"one": {oldroot.Report{Old: "/opt/old", References: refs[:1]}, `/opt/old is still named in 1 place:
  /etc/cron.d/mnw:3: crontab
      0 5 * * * mnw /opt/old/x
let that name something else, then look again: ` + "`puller doctor --old-root /opt/old`" + `
`},
		"everything": {oldroot.Report{Old: "/opt/o ld", References: refs, Asides: asides, Unread: unread}, `/opt/o ld is still named in 2 places:
  /etc/cron.d/mnw:3: crontab
      0 5 * * * mnw /opt/old/x
  /opt/mnw/current/app:byte 99: live release 1.0
      open /opt/old/conf
named where nothing acts on it, so these do not count:
  /etc/nginx/a\nb:1: nginx configuration; a comment
      # /opt/old
not looked at:
  /etc/sudoers: permission denied
let that name something else, then look again: ` + "`puller doctor --old-root '/opt/o ld'`" + `
`},
	} {
		var b strings.Builder
		writeOldRoot(&b, &c.report)
		if diff := cmp.Diff(c.want, b.String()); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}
