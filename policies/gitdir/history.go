package gitdir

import (
	"bytes"
	"context"
	"fmt"
	"strings"
)

// maxHistory bounds how many commits are looked at. One takes 50 µs.
const maxHistory = 100_000

// follows checks that the commit id is each one of c.After, or descends from it.
// It reads the commits themselves: what git keeps to be quicker, such as grafts
// and commit graphs, whoever can write to the checkout can write as they like.
func (c *Checkout) follows(ctx context.Context, id string) error {
	h := history{seen: map[string]bool{id: true}, wanted: map[string]bool{}}
	for _, before := range c.After {
		h.wanted[before] = true
	}
	if delete(h.wanted, id); len(h.wanted) == 0 {
		return nil
	}
	objects, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer objects.close()
	return h.search(objects, id)
}

// A history is a search among the commits before one.
type history struct {
	seen   map[string]bool
	wanted map[string]bool // commits that were not found yet
}

// search goes back from id, the nearest commits first, until all that is wanted
// is found.
func (h *history) search(objects *objectReader, id string) error {
	for queue := []string{id}; len(queue) > 0; queue = queue[1:] {
		data, err := objects.object(queue[0], "commit")
		if err != nil {
			return fmt.Errorf("looking for what it descends from: %w; a shallow clone is not enough", err)
		}
		for _, parent := range parents(data) {
			if delete(h.wanted, parent); len(h.wanted) == 0 {
				return nil
			}
			if !h.seen[parent] {
				h.seen[parent] = true
				queue = append(queue, parent)
			}
		}
		if len(h.seen) > maxHistory {
			return fmt.Errorf("looking for what it descends from: more than %d commits", maxHistory)
		}
	}
	for before := range h.wanted {
		return fmt.Errorf("%w %.12s; commit on top of that, as git revert does", ErrRolledBack, before)
	}
	return nil
}

// parents returns the ids in a commit object, which begins with its tree.
func parents(commit []byte) []string {
	_, rest, _ := bytes.Cut(commit, []byte("\n"))
	var list []string
	for line := range strings.Lines(string(rest)) {
		id, ok := strings.CutPrefix(line, "parent ")
		if !ok {
			break
		}
		list = append(list, strings.TrimSuffix(id, "\n"))
	}
	return list
}
