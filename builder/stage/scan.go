package stage

import "bytes"

// hit is one forbidden string found.
type hit struct {
	text string
	at   int64
}

// scanner is a writer that looks for strings in what is written to it, also across
// the borders of writes. It finds the first place of each.
type scanner struct {
	needles [][]byte
	keep    int    // bytes of the end that a match may begin in
	tail    []byte // the last bytes written
	at      int64  // offset of the tail
	seen    []bool // needle found already
	hits    []hit
}

func newScanner(texts []string) *scanner {
	s := &scanner{}
	for _, t := range texts {
		s.needles = append(s.needles, []byte(t))
		s.keep = max(s.keep, len(t)-1)
	}
	s.reset()
	return s
}

func (s *scanner) reset() {
	s.tail, s.at, s.hits = s.tail[:0], 0, nil
	s.seen = make([]bool, len(s.needles))
}

// Write never fails.
func (s *scanner) Write(p []byte) (int, error) {
	if len(s.needles) == 0 {
		return len(p), nil
	}
	border := len(s.tail)
	s.tail = append(s.tail, p[:min(len(p), s.keep)]...)
	s.look(s.tail, s.at) // what begins before p
	s.look(p, s.at+int64(border))
	if len(p) >= s.keep {
		s.at += int64(border + len(p) - s.keep)
		s.tail = append(s.tail[:0], p[len(p)-s.keep:]...)
	} else if extra := len(s.tail) - s.keep; extra > 0 {
		s.at += int64(extra)
		s.tail = append(s.tail[:0], s.tail[extra:]...)
	}
	return len(p), nil
}

func (s *scanner) look(data []byte, at int64) {
	for i, n := range s.needles {
		if s.seen[i] {
			continue
		}
		if j := bytes.Index(data, n); j >= 0 {
			s.seen[i] = true
			s.hits = append(s.hits, hit{string(n), at + int64(j)})
		}
	}
}

// text looks for the strings in t alone.
func (s *scanner) text(t string) []hit {
	s.reset()
	s.look([]byte(t), 0)
	return s.hits
}
