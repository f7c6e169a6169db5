package guides

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/internal/testenv/host"
)

func TestAsRootOperating(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "hello")
	f.release("1.0.0", "serves", "a")
	f.small = true
	web1 := f.node("web-1", "a")
	f.settles("web-1", "as wanted")
	f.badReleases()
	f.stuckNode(web1)
	f.fullAndLate(web1)
	f.bucketGone(web1)
	f.gitGone(web1)
	f.changedNode(web1)
	f.follow("operating.md", readDocument(t, "operating.md"))
}

// badReleases makes releases that fail, or work and are wrong.
func (f *fleet) badReleases() {
	f.before["A release is bad: It fails at once"] = func() {
		f.release("1.1.0", "there is no table users", "a")
		f.settles("web-1", "blocked")
	}
	f.before["A release is bad: It works, and is wrong"] = func() {
		f.release("1.2.0", "serves", "a")
		f.settles("web-1", "runs 1.2.0 .*, as wanted")
	}
	f.before["A hotfix, now"] = func() {
		f.commit("1.2.1", "serves")
	}
}

// stuckNode makes what keeps a node from being updated.
func (f *fleet) stuckNode(web1 *host.Host) {
	f.before["A node is stuck: Somebody pinned it"] = func() {
		f.do("web-1", "root", "puller --pin 1.0.0 --reason 'page 12 is empty, Ada'")
	}
	f.before["A node is stuck: It failed because of something else"] = func() {
		web1.Write(f.t, "/etc/systemd/system/hello.service.d/database.conf", "[Service]\nExecStartPre=/bin/sh -c '! grep -q 1.3.0 /opt/hello/current/VERSION || ! test -e /run/no-database'\n", 0o644)
		web1.Run(f.t, "sh", "-euc", "systemctl daemon-reload; touch /run/no-database")
		f.release("1.3.0", "serves", "a")
		f.settles("web-1", "blocked")
		web1.Run(f.t, "rm", "/run/no-database") // it was away while 1.3.0 was tried, and only then
	}
	f.before["A node is stuck: Nothing looks for news"] = func() {
		f.do("web-1", "root", "systemctl disable -q --now puller@hello")
	}
	f.before["A node is stuck: Its configuration is refused"] = func() {
		f.do("web-1", "root", `printf '\n[schedule]\nwindwo = "0 2 * * 6"\n' >>/etc/sando/hello.toml`)
	}
	f.after["A node is stuck: Its configuration is refused"] = func() {
		f.do("web-1", "root", `sed -i '/^.schedule/,$d' /etc/sando/hello.toml`)
	}
	f.before["A node is stuck: The app does not run"] = func() { f.do("web-1", "root", "systemctl stop hello") }
}

// fullAndLate makes a disk that is full, a clock that is behind.
func (f *fleet) fullAndLate(web1 *host.Host) {
	f.before["The disk is full"] = func() {
		f.do("web-1", "root", "dd if=/dev/zero of=/opt/dump.sql bs=1M status=none # exit 1: until it is full")
		f.release("1.4.0", "serves", "a")
		f.settles("web-1", "disk")
	}
	f.before["The clock is wrong"] = func() {
		// What sets a clock does so on this machine too: here it tells the test instead.
		web1.Run(f.t, "rm", "-f", "/etc/systemd/system/systemd-timesyncd.service")
		web1.Write(f.t, "/etc/systemd/system/systemd-timesyncd.service", "[Service]\nExecStart=/bin/sh -c 'touch /run/clock-is-set; exec sleep infinity'\n[Install]\nWantedBy=multi-user.target\n", 0o644)
		web1.Run(f.t, "systemctl", "daemon-reload")
		servers, before := append(bucketServer(), gitServer()[0]), early(f.t)
		f.instead(func(c net.Conn) {
			if _, err := os.Stat(web1.Path("/run/clock-is-set")); err == nil {
				f.instead(nil, web1, servers...)
				return
			}
			before(c)
		}, web1, servers...)
		f.settles("web-1", "trouble: io")
	}
}

// bucketGone makes the bucket away, and then empty.
func (f *fleet) bucketGone(web1 *host.Host) {
	f.before["The bucket is gone: For a while"] = func() {
		f.instead(gone, web1, bucketServer()...)
		f.release("1.4.1", "serves", "a")
		f.settles("web-1", "1.4.1 is wanted: io")
	}
	f.after["The bucket is gone: For a while"] = func() {
		web1.Run(f.t, "systemctl", "stop", "puller@hello") // it waits between its attempts
		f.instead(nil, web1, bucketServer()...)
		f.do("web-1", "root", "puller")
	}
	f.before["The bucket is gone: For good"] = func() {
		f.release("1.4.2", "serves", "a")
		f.empty()
		web1.Run(f.t, "systemctl", "start", "puller@hello")
		f.settles("web-1", "1.4.2 is wanted")
	}
	f.after["The bucket is gone: For good"] = func() { f.settles("web-1", "runs 1.4.2 .*, as wanted") }
}

// gitGone makes the git host away, then its repository, then a key.
func (f *fleet) gitGone(web1 *host.Host) {
	f.before["The git host is gone: For a while"] = func() {
		f.commit("1.5.0", "serves")
		for _, h := range []*host.Host{web1, f.build} {
			f.instead(gone, h, gitServer()...)
		}
		f.settles("web-1", "trouble: io")
	}
	f.after["The git host is gone: For a while"] = func() {
		for _, h := range []*host.Host{web1, f.build} {
			f.instead(nil, h, gitServer()...)
		}
	}
	f.before["The git host is gone: For good"] = func() {
		// The clone is older than what web-1 has seen.
		f.git.Run(f.t, "sh", "-euc", "rm -r /ops/hello-channels.git; git init -q --bare -b main /ops/hello-channels.git; chown -R git: /ops")
	}
	f.before["The builder is gone: On a new machine"] = func() {
		f.build.Run(f.t, "sh", "-euc", "rm -r /srv/sando/hello; install -d -o builder -g builder /srv/sando/hello; rm -r /home/builder/.ssh")
	}
	f.before["A key is lost"] = func() {
		f.build.Run(f.t, "sh", "-euc", "mkdir -p /media/root-1; cd /srv/sando/hello/keys; mv root-1.key /media/root-1/; chown builder /media/root-1; rm channel.key")
	}
}

// changedNode makes a node that is another than before, and what its next release needs.
func (f *fleet) changedNode(web1 *host.Host) {
	f.before["A node is moved, renamed, restored: From a backup, or an old image"] = func() {
		web1.Run(f.t, "sh", "-euc", "systemctl stop puller@hello; rm -rf /root/image; cp -a /opt/hello /root/image; systemctl start puller@hello")
		f.release("1.6.0", "serves", "a", "b")
		f.settles("web-1", "runs 1.6.0 .*, as wanted")
		web1.Run(f.t, "sh", "-euc", "systemctl stop puller@hello hello; rm -r /opt/hello; mv /root/image /opt/hello; systemctl start hello")
	}
	f.before["A node is moved, renamed, restored: What the puller knows is lost"] = func() {
		web1.Run(f.t, "sh", "-c", "rm -r /opt/hello/.sando || rm -r /opt/hello/.sando") // a daemon may write into it
	}
	f.before["The next release needs more: The migration failed"] = func() {
		web1.Run(f.t, "systemctl", "reload", "puller@hello") // or a new release may come before it has read the hook
		f.build.Write(f.t, "/srv/sando/src/hello-migrate", "#!/bin/sh\ntouch /var/lib/hello/tables/users\n", 0o755)
		f.release("2.0.0", "serves", "a", "b")
		f.settles("web-1", "2.0.0 is wanted: (hook|blocked)")
	}
	f.after["The next release needs more: The migration failed"] = func() { f.settles("web-1", "runs 2.0.0 .*, as wanted") }
	f.before["A new version of Sando"] = func() {
		for _, program := range []string{"builder", "puller"} {
			f.build.Copy(f.t, filepath.Join(testenv.Programs(f.t), program), "/root/sando/bin/"+program)
		}
		f.logsIn(f.build, map[string]*host.Host{"web-1": web1})
	}
}
