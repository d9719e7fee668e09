package ststoken

import (
	"errors"
	"strings"
)

// errXML says that a document is none of those that STS answers with.
var errXML = errors.New("not the XML that STS answers with")

const (
	// maxDocument is more than STS answers with, in bytes: a token is the largest of it.
	maxDocument = 64 << 10

	// maxDepth is more than STS has elements in one another.
	maxDepth = 8
)

// A node is an element of an XML document. Text between its children counts as its
// own; nobody reads that.
type node struct {
	name, text string
	children   []node
}

// parseXML reads a document of the few forms that STS writes: elements, plain text,
// xmlns. It refuses all else that XML has, so that there are no two readings of
// what it accepts. encoding/xml would do, and is large.
func parseXML(doc string) (*node, error) {
	if len(doc) > maxDocument {
		return nil, errXML
	}
	doc = strings.TrimSpace(doc)
	if declaration, ok := strings.CutPrefix(doc, "<?xml "); ok {
		_, doc, _ = strings.Cut(declaration, "?>")
	}
	doc, ok := strings.CutPrefix(strings.TrimSpace(doc), "<")
	if !ok {
		return nil, errXML
	}
	root, rest, err := parseNode(doc, maxDepth)
	if err != nil || strings.TrimSpace(rest) != "" {
		return nil, errXML
	}
	return root, nil
}

// parseNode reads an element whose < was read already, and returns what follows it.
func parseNode(doc string, depth int) (n *node, rest string, err error) {
	tag, rest, ok := strings.Cut(doc, ">")
	name, empty, fine := startTag(tag)
	if !ok || !fine || depth == 0 {
		return nil, "", errXML
	}
	for n = (&node{name: name}); !empty; {
		text, after, ok := strings.Cut(rest, "<")
		if n.text += text; !ok {
			return nil, "", errXML
		}
		if end, isEnd := strings.CutPrefix(after, "/"); isEnd {
			rest, ok = strings.CutPrefix(end, name+">")
			if !ok {
				return nil, "", errXML
			}
			return n, rest, nil
		}
		child, following, err := parseNode(after, depth-1)
		if err != nil {
			return nil, "", err
		}
		n.children, rest = append(n.children, *child), following
	}
	return n, rest, nil
}

// startTag reads what stands between < and > where an element begins, or is empty.
func startTag(tag string) (name string, empty, fine bool) {
	tag, empty = strings.CutSuffix(tag, "/")
	name, attribute, has := strings.Cut(tag, " ")
	if has && !isNamespace(attribute) {
		return "", false, false
	}
	return name, empty, name != "" && strings.Trim(name, letters) == ""
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// isNamespace reports whether an attribute is xmlns, once.
func isNamespace(attribute string) bool {
	value, begins := strings.CutPrefix(attribute, `xmlns="`)
	value, ends := strings.CutSuffix(value, `"`)
	return begins && ends && !strings.ContainsAny(value, `<&"`)
}

// textAt returns the text of the one element at path; path[0] is n itself. "" if
// there is none, or more than one, or one with elements in it, or a text with what
// stands for a character: neither tokens nor codes have such.
func (n *node) textAt(path ...string) string {
	if n.name != path[0] {
		return ""
	}
	for _, name := range path[1:] {
		var next *node
		for i := range n.children {
			if n.children[i].name != name {
				continue
			}
			if next != nil {
				return ""
			}
			next = &n.children[i]
		}
		if n = next; n == nil {
			return ""
		}
	}
	if len(n.children) > 0 || strings.ContainsRune(n.text, '&') {
		return ""
	}
	return n.text
}
