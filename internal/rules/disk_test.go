package rules

import (
	"go/ast"
	"slices"
	"strings"
)

// diskExceptions returns what a file outside internal/durable may do itself.
func diskExceptions() map[string]string {
	return map[string]string{
		// Links of a release are made inside its staging directory through an os.Root;
		// the whole tree is then synced, or thrown away, before anything names it.
		"layout/archive/disk.go": "Symlink",
		// The tree that is packed is laid out through an os.Root in a scratch directory,
		// which goes once it is packed, or at the next start; nothing ever names it.
		"builder/stage/stage.go": "Symlink",
	}
}

// durable: only internal/durable renames, links and syncs, whoever offers the function:
// package os, an os.Root, a file, or a system call by name. Tests do as they like.
func durable(f *file) []string {
	if f.test() || f.dir() == "internal/durable" {
		return nil
	}
	other := map[*ast.SelectorExpr]bool{} // functions of packages that do not touch the disk
	f.selected(f.ast, func(sel *ast.SelectorExpr, pkg, _ string) {
		other[sel] = !slices.Contains([]string{"os", "syscall", "golang.org/x/sys/unix"}, pkg)
	})
	words := strings.Fields("Rename Renameat Renameat2 Symlink Symlinkat Link Linkat Sync Syncfs Fsync Fdatasync")
	var found []string
	ast.Inspect(f.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if ok && !other[sel] && slices.Contains(words, sel.Sel.Name) && diskExceptions()[f.name] != sel.Sel.Name {
			found = append(found, f.at(sel, "%s belongs to internal/durable", sel.Sel.Name))
		}
		return true
	})
	return found
}

func diskSamples() []sample {
	const bad = `package node
import (
	"os"
	"golang.org/x/sys/unix"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/layout/tree"
)
func f(f *os.File, r *os.Root) {
	os.Rename("a", "b")
	r.Symlink("a", "b")
	do(f.Sync)
	unix.Syncfs(3)
	os.Link("a", "b")
}
func g(f *os.File) {
	durable.Rename("a", "b")
	durable.Sync(f)
	println(tree.Link)
}
`
	return []sample{
		{"durable", map[string]string{"layout/node/a.go": bad, "layout/node/a_test.go": bad}, []string{
			"layout/node/a.go:10: Symlink belongs to internal/durable",
			"layout/node/a.go:11: Sync belongs to internal/durable",
			"layout/node/a.go:12: Syncfs belongs to internal/durable",
			"layout/node/a.go:13: Link belongs to internal/durable",
			"layout/node/a.go:9: Rename belongs to internal/durable",
		}},
		{"durable", map[string]string{"layout/archive/disk.go": bad}, []string{
			"layout/archive/disk.go:11: Sync belongs to internal/durable",
			"layout/archive/disk.go:12: Syncfs belongs to internal/durable",
			"layout/archive/disk.go:13: Link belongs to internal/durable",
			"layout/archive/disk.go:9: Rename belongs to internal/durable",
		}},
		{"durable", map[string]string{"internal/durable/a.go": bad}, nil},
	}
}
