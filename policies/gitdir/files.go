package gitdir

import (
	"bytes"
	"cmp"

	"io/fs"
	"maps"
	"path"
	"slices"
	"time"
)

// files is a folder in memory, as an [fs.FS].
type files map[string]*node

// A node is a file, or a folder with what is in it.
type node struct {
	name    string // the last part of its path
	data    []byte
	entries []fs.DirEntry // of a folder; nil: it is a file
}

func (f files) folder(name string) {
	f.put(name, &node{name: path.Base(name), entries: []fs.DirEntry{}})
}

func (f files) add(name string, data []byte) {
	f.put(name, &node{name: path.Base(name), data: data})
}

// put adds n and tells its folder, which is there already.
func (f files) put(name string, n *node) {
	f[name] = n
	if parent := f[path.Dir(name)]; name != "." {
		parent.entries = append(parent.entries, fs.FileInfoToDirEntry(n))
	}
}

// documents returns the names of the files, sorted.
func (f files) documents() []string {
	list := slices.Sorted(maps.Keys(f))
	return slices.DeleteFunc(list, func(name string) bool { return f[name].IsDir() })
}

// Open implements [fs.FS].
func (f files) Open(name string) (fs.File, error) {
	n := f[name]
	if !fs.ValidPath(name) || n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &opened{Reader: *bytes.NewReader(n.data), node: n}, nil
}

// ReadDir implements [fs.ReadDirFS].
func (f files) ReadDir(name string) ([]fs.DirEntry, error) {
	n := f[name]
	if n == nil || !n.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	list := slices.Clone(n.entries) // trees have another order than names
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return list, nil
}

// A node is its own [fs.FileInfo].

func (n *node) Name() string       { return n.name }
func (n *node) Size() int64        { return int64(len(n.data)) }
func (n *node) IsDir() bool        { return n.entries != nil }
func (n *node) ModTime() time.Time { return time.Time{} }
func (n *node) Sys() any           { return nil }

func (n *node) Mode() fs.FileMode {
	if n.IsDir() {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

// opened is an open file.
type opened struct {
	bytes.Reader
	node *node
}

func (o *opened) Stat() (fs.FileInfo, error) { return o.node, nil }
func (o *opened) Close() error               { return nil }

// Read implements [fs.File]. A folder is not read.
func (o *opened) Read(p []byte) (int, error) {
	if o.node.IsDir() {
		return 0, &fs.PathError{Op: "read", Path: o.node.name, Err: fs.ErrInvalid}
	}
	return o.Reader.Read(p)
}
