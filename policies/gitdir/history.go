package gitdir

import (
	"bytes"
	"context"
	"fmt"
	"strings"
)

// maxHistory bounds how many commits are looked at. One takes 50 µs.
const maxHistory = 100_000

// follows checks that the commit id is c.After or descends from it. It reads the
// commits themselves: what git keeps to be quicker, such as grafts and commit
// graphs, whoever can write to the checkout can write as they like.
func (c *Checkout) follows(ctx context.Context, id string) error {
	if c.After == "" || c.After == id {
		return nil
	}
	objects, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer objects.close()
	found, err := objects.descends(id, c.After)
	switch {
	case err != nil:
		return fmt.Errorf("looking for %.12s among what it descends from: %w; a shallow clone is not enough", c.After, err)
	case !found:
		return fmt.Errorf("%w %.12s; commit on top of that, as git revert does", ErrRolledBack, c.After)
	}
	return nil
}

// descends goes back from the commit id, the nearest commits first, until it
// comes to ancestor.
func (r *objectReader) descends(id, ancestor string) (bool, error) {
	seen := map[string]bool{id: true}
	for queue := []string{id}; len(queue) > 0; queue = queue[1:] {
		commit, err := r.object(queue[0], "commit")
		if err != nil {
			return false, err
		}
		for _, parent := range parents(commit) {
			if parent == ancestor {
				return true, nil
			}
			if !seen[parent] {
				seen[parent] = true
				queue = append(queue, parent)
			}
		}
		if len(seen) > maxHistory {
			return false, fmt.Errorf("there are more than %d commits", maxHistory)
		}
	}
	return false, nil
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
