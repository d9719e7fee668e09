package mint

import "fmt"

// didYouMean returns "; did you mean X?" for the known name that is nearest to
// what was written, or "" if none is near.
func didYouMean(written string, known []string) string {
	best, bestDistance := "", 3 // more than two slips are another word
	for _, name := range known {
		if d := distance(written, name); d < bestDistance && d < len(name) {
			best, bestDistance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// distance is the Levenshtein distance of two short strings. A string longer
// than any name of ours is far from all of them.
func distance(a, b string) int {
	if len(a) > 128 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := corner
			if a[i] != b[j] {
				cost++
			}
			corner = row[j+1]
			row[j+1] = min(cost, row[j]+1, corner+1)
		}
	}
	return row[len(b)]
}
