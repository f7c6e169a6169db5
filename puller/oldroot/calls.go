package oldroot

import (
	"bytes"
	"context"
	"errors"
	"path"
	"regexp"
	"slices"
	"strings"
)

const (
	maxCalls = 5000 // files that are called
	maxDepth = 8    // scripts that call scripts
)

// call is a file that something runs, if it is a script.
type call struct {
	file  string
	by    string
	depth int
	sure  bool // an interpreter is given it
}

// programDirs are where programs are that are called by name.
func programDirs() []string {
	return []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
}

var (
	variable    = regexp.MustCompile(`\$\{?[A-Za-z_0-9]+\}?|\$\(dirname[^)]*\)`)
	interpreter = regexp.MustCompile(`^(\.|source|env|(ba|da|a|k|z)?sh|python[0-9.]*|perl|ruby|php[0-9.]*|node)$`)
)

// calls remembers what a command, a line of a shell, may run: every word that is the path of a
// file, or the name of a program. Which of them are scripts is found out later. Without "/" in
// front a path is below dir; home is what $HOME stands for.
func (s *search) calls(command, by, dir, home string) { s.callsAt(command, by, dir, home, 0) }

func (s *search) callsAt(command, by, dir, home string, depth int) {
	if home != "" {
		command = strings.NewReplacer("${HOME}/", home+"/", "$HOME/", home+"/", " ~/", " "+home+"/").Replace(command)
	}
	command = variable.ReplaceAllString(command, "")
	last := ""
	for word := range strings.FieldsFuncSeq(command, func(r rune) bool { return strings.ContainsRune(" \t\r;|&()<>\"'`=,{}", r) }) {
		word = strings.TrimLeft(word, "-@:+!")
		sure := interpreter.MatchString(path.Base(last))
		last = word
		if len(s.queue) >= maxCalls {
			s.unread("scripts", errors.New("too many are called: not all were looked at"))
			return
		}
		switch {
		case path.IsAbs(word):
			s.queue = append(s.queue, call{path.Clean(word), by, depth, sure})
			if dir != "" { // "$HERE"/lib.sh
				s.queue = append(s.queue, call{path.Join(dir, word), by, depth, sure})
			}
		case strings.Contains(word, "/") || sure:
			if dir != "" {
				s.queue = append(s.queue, call{path.Join(dir, word), by, depth, sure})
			}
		}
		if file := s.commands[word]; file != "" {
			s.queue = append(s.queue, call{file, by, depth, false})
		}
	}
}

// programs learns which programs there are.
func (s *search) programs() {
	for _, dir := range slices.Backward(programDirs()) {
		for _, name := range s.files(dir) {
			s.commands[path.Base(name)] = name
		}
	}
}

// scripts searches the scripts that are called, and those that they call in turn.
func (s *search) scripts(ctx context.Context) {
	looked := map[string]bool{}
	for len(s.queue) > 0 && ctx.Err() == nil {
		c := s.queue[0]
		s.queue = s.queue[1:]
		if looked[c.file] || within(c.file, s.o.Old) {
			continue
		}
		looked[c.file] = true
		real, ok := s.where(c.file)
		if !ok || s.seen[real] || !s.script(c, real) {
			continue
		}
		what, depth := "script "+c.file, c.depth+1
		s.scan(ctx, c.file, source{
			kind: Script, what: "script, called by " + c.by, syntax: shell,
			reads: func(line []byte) {
				if depth < maxDepth && !shell.remark(line) {
					s.callsAt(string(line), what, path.Dir(c.file), "", depth)
				}
			},
		})
	}
}

// script reports whether the file at real is one: a text that begins as one, may be run, or
// is given to an interpreter.
func (s *search) script(c call, real string) bool {
	info, err := s.disk.root.Lstat(relative(real))
	if err != nil || info.IsDir() || !info.Mode().IsRegular() && !c.sure {
		return false
	}
	f, size, err := s.disk.open(real)
	if err != nil {
		s.unread(c.file, err)
		return false
	}
	defer f.Close()
	head := make([]byte, 512)
	n, _ := f.Read(head)
	head = head[:n]
	switch {
	case n == 0 || binary(head):
		return false
	case bytes.HasPrefix(head, []byte("#!")):
		return true
	}
	return size <= maxText && (c.sure || info.Mode()&0o111 != 0)
}
