package presets

import "strings"

// Fit matches s with a pattern and returns what the pattern's parts stand for.
// A part is a name in braces. It stands for one or more characters of one
// segment: without slash and colon, and without dot where a dot follows it. {host}
// stands for a host with its port, and {name...}, at the end, for all the rest.
// Everything else stands for itself. The first wrong character ends the match:
// nothing is tried twice.
func Fit(pattern, s string) (parts map[string]string, ok bool) {
	parts = make(map[string]string)
	for {
		literal, rest, more := strings.Cut(pattern, "{")
		s, ok = strings.CutPrefix(s, literal)
		if !ok || !more && s != "" {
			return nil, false
		}
		if !more {
			return parts, true
		}
		name, after, _ := strings.Cut(rest, "}")
		end := partEnd(name, after, s)
		if end == 0 {
			return nil, false
		}
		parts[strings.TrimSuffix(name, "...")] = s[:end]
		pattern, s = after, s[end:]
	}
}

// partEnd returns how much of s the part of that name stands for; after is the
// pattern behind it.
func partEnd(name, after, s string) int {
	stop := "/:"
	switch {
	case strings.HasSuffix(name, "..."):
		return len(s)
	case name == "host":
		stop = "/"
	case strings.HasPrefix(after, "."):
		stop = "/:."
	}
	if i := strings.IndexAny(s, stop); i >= 0 {
		return i
	}
	return len(s)
}

// Fill puts values in the place of a pattern's parts of these names; others
// stay.
func Fill(pattern string, parts map[string]string) string {
	var pairs []string
	for name, value := range parts {
		pairs = append(pairs, "{"+name+"}", value)
	}
	return strings.NewReplacer(pairs...).Replace(pattern)
}

// FitURL returns the parts of the first of the preset's URLs that url fits. A
// part that stands in none of them is not there.
func (p *Preset) FitURL(url string) (parts map[string]string, ok bool) {
	for _, pattern := range p.URLs {
		if parts, ok = Fit(pattern, url); ok {
			return parts, true
		}
	}
	return nil, false
}
