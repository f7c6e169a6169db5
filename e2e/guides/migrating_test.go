package guides

import (
	"path/filepath"
	"testing"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/internal/testenv/host"
)

func TestAsRootMigrating(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "mnw")
	f.commit("1.0.0", "serves")
	sections := readDocument(t, "migrating.md")
	web1, web2 := f.bare("web-1"), f.bare("web-2")
	for _, h := range []*host.Host{web1, web2} {
		h.Copy(t, filepath.Join(testenv.Programs(t), "puller"), "/usr/local/bin/puller")
	}
	flat(t, web1)
	pushed(t, web2)
	f.follow("migrating.md", sections)
}

// flat plants an app that runs from a directory which holds everything.
func flat(t *testing.T, h *host.Host) {
	t.Helper()
	h.Run(t, "useradd", "--system", "--user-group", "--home-dir", "/opt/makenotwork", "--shell", "/bin/sh", "makenotwork")
	for name, text := range map[string]string{
		"/opt/makenotwork/mnw": guideApp, "/opt/makenotwork/VERSION": "0.9.0\n", "/opt/makenotwork/HOW": "serves\n",
		"/opt/makenotwork/.env":           "ADDR=127.0.0.1:8080\nDATABASE_URL=postgres://mnw:s3cret@db/mnw\nHOW_FILE=/opt/makenotwork/HOW\nDATA_DIR=/opt/makenotwork/data\n",
		"/opt/makenotwork/data/users":     "the state\n",
		"/opt/makenotwork/static/app.css": "",
		"/etc/systemd/system/makenotwork.service": "[Service]\nExecStart=/opt/makenotwork/mnw\nWorkingDirectory=/opt/makenotwork\n" +
			"EnvironmentFile=/opt/makenotwork/.env\nUser=makenotwork\n[Install]\nWantedBy=multi-user.target\n",
		"/etc/systemd/system/makenotwork.service.d/limits.conf": "[Service]\nNice=1\n",
		"/etc/sudoers.d/makenotwork":                            "deploy ALL=(root) NOPASSWD: /opt/makenotwork/restart\n",
		"/etc/caddy/Caddyfile":                                  "mnw.example.org {\n\troot * /opt/makenotwork/static\n}\n",
		"/etc/cron.d/makenotwork":                               "0 3 * * * root /usr/local/bin/backup-mnw\n",
		"/usr/local/bin/backup-mnw":                             "#!/bin/sh\ntar -czf /srv/backup.tgz /opt/makenotwork/data\n",
		"/root/.ssh/authorized_keys":                            "command=\"/opt/makenotwork/deploy\" ssh-ed25519 AAAA\n",
	} {
		h.Write(t, name, text, 0o644)
	}
	h.Run(t, "sh", "-euc", `chmod 755 /opt/makenotwork/mnw /usr/local/bin/backup-mnw; chmod 600 /opt/makenotwork/.env /root/.ssh/authorized_keys; chmod 440 /etc/sudoers.d/makenotwork
chown -R makenotwork: /opt/makenotwork; systemctl daemon-reload; systemctl enable -q --now makenotwork`)
}

// pushed plants an app as a deployer leaves it that copies releases over ssh.
func pushed(t *testing.T, h *host.Host) {
	t.Helper()
	h.Run(t, "sh", "-euc", "useradd --create-home deploy; useradd --system --user-group --no-create-home --home-dir /var/lib/mnw --shell /usr/sbin/nologin mnw; usermod -aG mnw deploy")
	for _, version := range []string{"0.8.0", "0.9.0", "0.9.1"} {
		dir := "/opt/mnw/releases/" + version
		h.Write(t, dir+"/mnw", guideApp, 0o775)
		h.Write(t, dir+"/VERSION", version+"\n", 0o664)
		h.Write(t, dir+"/HOW", "serves\n", 0o664)
	}
	h.Write(t, "/etc/mnw/mnw.env", "ADDR=127.0.0.1:8080\n", 0o640)
	h.Write(t, "/etc/sudoers.d/deploy", "deploy ALL=(root) NOPASSWD: /usr/bin/systemctl restart mnw\n", 0o440)
	h.Write(t, "/etc/systemd/system/mnw.service", "[Service]\nExecStart=/opt/mnw/current/mnw\nWorkingDirectory=/opt/mnw/current\n"+
		"EnvironmentFile=/etc/mnw/mnw.env\nUser=mnw\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	h.Run(t, "sh", "-euc", `ln -s releases/0.9.1 /opt/mnw/current; chown -hR deploy:mnw /opt/mnw; chmod g+w /opt/mnw /opt/mnw/releases /opt/mnw/releases/*
chgrp mnw /etc/mnw/mnw.env; systemctl daemon-reload; systemctl enable -q --now mnw`)
}
