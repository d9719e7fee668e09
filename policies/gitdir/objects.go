package gitdir

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os/exec"
	"path"
	"strconv"
	"strings"
)

// Limits on what is read of one commit. 10 000 policies of 5 KiB are 50 MiB.
const (
	maxObject  = 8 << 20
	maxTotal   = 256 << 20
	maxEntries = 200_000 // of all trees together
	maxDepth   = 16      // folders in folders
)

// newHash returns the hash that objects with such an id are named by; nil: it
// is not an id.
func newHash(id string) hash.Hash {
	switch len(id) {
	case 2 * sha1.Size:
		return sha1.New()
	case 2 * sha256.Size:
		return sha256.New()
	}
	return nil
}

// An objectReader reads objects from one running git cat-file.
type objectReader struct {
	ctx  context.Context
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	said *limited
	left int // bytes that may still be read
}

func (c *Checkout) open(ctx context.Context) (*objectReader, error) {
	cmd, err := c.command(ctx, "cat-file", "--batch")
	if err != nil {
		return nil, err
	}
	r := &objectReader{ctx: ctx, cmd: cmd, said: &limited{}, left: maxTotal}
	cmd.Stderr = r.said
	if r.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("running git: %w", err)
	}
	return r, nil
}

// close ends git. What it still had to say is not wanted.
func (r *objectReader) close() error {
	r.in.Close()
	io.Copy(io.Discard, r.out)
	return gitError(r.ctx, r.cmd.Wait(), r.said.String())
}

// object returns the content of an object, after hashing it.
func (r *objectReader) object(id, kind string) ([]byte, error) {
	if _, err := io.WriteString(r.in, id+"\n"); err != nil {
		return nil, gitError(r.ctx, err, r.said.String())
	}
	header, err := r.out.ReadString('\n')
	if err != nil {
		return nil, gitError(r.ctx, err, r.said.String())
	}
	fields := strings.Fields(header)
	if len(fields) != 3 || fields[0] != id || fields[1] != kind {
		return nil, fmt.Errorf("object %.12s is not a %s: %.64q", id, kind, strings.TrimSpace(header))
	}
	size, err := strconv.Atoi(fields[2])
	if err != nil || size < 0 || size > min(maxObject, r.left) {
		return nil, fmt.Errorf("object %.12s has %s bytes: at most %d are read of one, and %d of all", id, fields[2], maxObject, maxTotal)
	}
	r.left -= size
	data := make([]byte, size+1)
	if _, err := io.ReadFull(r.out, data); err != nil {
		return nil, gitError(r.ctx, err, r.said.String())
	}
	return data[:size], checkHash(id, kind, data[:size])
}

// checkHash holds an object to its name. Git does so for commits only, and
// trusts its own disk for the rest.
func checkHash(id, kind string, data []byte) error {
	h := newHash(id)
	if h == nil {
		return fmt.Errorf("%.64q is not the name of an object", id)
	}
	fmt.Fprintf(h, "%s %d\x00", kind, len(data))
	h.Write(data)
	if hex.EncodeToString(h.Sum(nil)) != id {
		return fmt.Errorf("object %.12s: %w", id, errNotHashed)
	}
	return nil
}

// A walk gathers the documents below a folder.
type walk struct {
	objects *objectReader
	files   files
	entries int
}

func (w *walk) commit(id, folder string) error {
	data, err := w.objects.object(id, "commit")
	if err != nil {
		return err
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	tree, ok := strings.CutPrefix(string(line), "tree ")
	if !ok {
		return errors.New("the commit names no tree")
	}
	if folder != "." {
		for name := range strings.SplitSeq(folder, "/") {
			if tree, err = w.child(tree, name); err != nil {
				return err
			}
		}
	}
	w.files.folder(".")
	return w.tree(tree, ".", 0)
}

// child returns the id of the folder name in a tree.
func (w *walk) child(tree, name string) (string, error) {
	list, err := w.list(tree)
	if err != nil {
		return "", err
	}
	for _, e := range list {
		if e.name == name && e.isFolder() {
			return e.id, nil
		}
	}
	return "", fmt.Errorf("there is no folder %q", name)
}

// tree reads the documents of a tree and of those below it.
func (w *walk) tree(id, dir string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: folders are nested more than %d deep", dir, maxDepth)
	}
	list, err := w.list(id)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := w.entry(e, path.Join(dir, e.name), depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(e entry, name string, depth int) error {
	switch {
	case hidden(e.name):
	case e.isFolder():
		w.files.folder(name)
		return w.tree(e.id, name, depth+1)
	case e.mode == "160000":
		return fmt.Errorf("%s is a submodule, whose files the signature does not cover", name)
	case !isDocument(name):
	case !strings.HasPrefix(e.mode, "100"):
		return fmt.Errorf("%s is a link; commit the file itself", name)
	default:
		data, err := w.objects.object(e.id, "blob")
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		w.files.add(name, data)
	}
	return nil
}

// An entry is one of a tree.
type entry struct{ mode, name, id string }

func (e entry) isFolder() bool { return e.mode == "40000" }

func (w *walk) list(id string) ([]entry, error) {
	data, err := w.objects.object(id, "tree")
	if err != nil {
		return nil, err
	}
	list, err := parseTree(data, len(id)/2)
	if w.entries += len(list); err == nil && w.entries > maxEntries {
		err = fmt.Errorf("more than %d files", maxEntries)
	}
	return list, err
}

var errTree = errors.New("a tree is not well-formed")

// parseTree reads a tree object: mode, space, name, zero byte, id as size
// bytes, again and again.
func parseTree(data []byte, size int) ([]entry, error) {
	var list []entry
	seen := map[string]bool{}
	for len(data) > 0 {
		head, rest, ok := bytes.Cut(data, []byte{0})
		mode, name, spaced := strings.Cut(string(head), " ")
		switch {
		case !ok || !spaced || len(rest) < size:
			return nil, errTree
		case name == "" || name == "." || name == ".." || strings.Contains(name, "/") || seen[name]:
			return nil, fmt.Errorf("%w: the name %.64q", errTree, name)
		}
		seen[name] = true
		list = append(list, entry{mode, name, hex.EncodeToString(rest[:size])})
		data = rest[size:]
	}
	return list, nil
}
