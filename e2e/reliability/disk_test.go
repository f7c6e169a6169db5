package reliability

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
)

// disks are filesystems that take no more. The app's root is a small one of its own.
func disks() []kase {
	big := map[string]string{"big": noise(5 << 20)}
	many := map[string]string{}
	for i := range 200 {
		many["many/"+strings.Repeat("x", i+1)] = ""
	}
	return []kase{
		{app: "full", name: "the disk has no room for the release", reason: reason.Disk, runs: "1.0.0", starts: "1.0.0", test: func(m *machine) puller.Result {
			m.mount("-N", "400")
			m.good("1.0.0")
			m.run("fallocate", "-l", "6M", "/opt/"+m.app+"/other")
			m.publish("2.0.0", "", big)
			m.advance("2.0.0")
			return m.cycle()
		}},
		{app: "inodes", name: "the disk has no inodes for the release", reason: reason.Disk, runs: "1.0.0", starts: "1.0.0", test: func(m *machine) puller.Result {
			m.mount("-N", "100")
			m.good("1.0.0")
			m.publish("2.0.0", "", many)
			m.advance("2.0.0")
			return m.cycle()
		}},
		{app: "full-later", name: "the disk had no room for the release, and has it now", reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			m.mount("-N", "400")
			m.good("1.0.0")
			m.run("fallocate", "-l", "6M", "/opt/"+m.app+"/other")
			m.publish("2.0.0", "", big)
			m.advance("2.0.0")
			m.cycle()
			m.run("rm", "/opt/"+m.app+"/other")
			return m.cycle()
		}},
		{app: "fills", name: "fills the disk, and exits", reason: reason.Unhealthy, failed: 1, back: 1, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.mount("-N", "400")
			m.run("install", "-d", "-o", "www-data", "/opt/"+m.app+"/data")
			m.good("1.0.0")
			m.release("2.0.0", "fills /opt/"+m.app+"/data")
			return m.cycle()
		}},
		{app: "full-probation", name: "the disk is full when 2.0.0 has proved itself", reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			m.mount("-N", "400")
			m.good("1.0.0")
			m.release("2.0.0", "")
			end := m.begin()
			m.answers("2.0.0")
			m.s.Try(m.T, "dd", "if=/dev/zero", "of=/opt/"+m.app+"/other", "bs=1k") // ends when nothing more fits
			return end()
		}},
		{app: "full-pin", name: "`puller --pin 1.0.0` on a full disk", reason: reason.Updated, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.mount("-N", "400")
			m.good("1.0.0", "2.0.0")
			m.s.Try(m.T, "dd", "if=/dev/zero", "of=/opt/"+m.app+"/other", "bs=1k")
			return m.order("--pin", "1.0.0")
		}},
		{app: "read-only-probation", name: "the disk gets read-only in the probation of 2.0.0", open: true, reason: reason.IO, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			fail := m.mount("-N", "400")
			m.good("1.0.0")
			m.release("2.0.0", "")
			end := m.begin()
			m.answers("2.0.0")
			fail()
			return end()
		}},
		{app: "read-only", name: "the disk is read-only", reason: reason.IO, runs: "1.0.0", starts: "1.0.0", test: func(m *machine) puller.Result {
			fail := m.mount("-N", "400")
			m.good("1.0.0")
			m.release("2.0.0", "")
			fail()
			return m.cycle()
		}},
	}
}

// noise returns bytes that cannot be packed.
func noise(n int) string {
	f, err := os.Open("/dev/urandom")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	buf := make([]byte, n)
	if _, err := f.Read(buf); err != nil {
		panic(err)
	}
	return string(buf)
}

// mount makes the app's root a filesystem of 16 MB. fail makes its kernel take it for broken,
// and read-only: what comes of a disk that fails.
func (m *machine) mount(options ...string) (fail func()) {
	m.Helper()
	image := filepath.Join(m.TempDir(), "image")
	must(m.T, os.WriteFile(image, nil, 0o600))
	must(m.T, os.Truncate(image, 16<<20))
	here := func(args ...string) string {
		out, err := exec.CommandContext(m.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil {
			m.Fatalf("%q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	here(append(append([]string{"mkfs.ext4", "-q", "-b", "1024", "-m", "0"}, options...), image)...)
	device := here("losetup", "--find", "--show", image)
	name := filepath.Base(device)
	// The host has no such devices: it gets this one.
	m.run("mknod", device, "b", "7", strings.TrimPrefix(name, "loop"))
	root := "/opt/" + m.app
	m.run("mkdir", "-p", root)
	m.run("mount", "-o", "errors=remount-ro", device, root)
	m.run("rmdir", root+"/lost+found")
	here("losetup", "--detach", device) // once it is not mounted any more
	return func() { here("sh", "-c", "echo 1 >/sys/fs/ext4/"+name+"/trigger_fs_error") }
}
