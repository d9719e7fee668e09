package mask

// Plain returns the texts that a Masker for value looks for in output as it is,
// and where escapes were decoded.
func Plain(value string) []string { return texts(plainPatterns(value)) }

// Base64 returns those that it looks for in output without line breaks.
func Base64(value string) []string { return texts(base64Patterns(value)) }

func texts(patterns []pattern) []string {
	var out []string
	for _, p := range patterns {
		out = append(out, p.text)
	}
	return out
}

// Nodes returns the size of m's automatons.
func Nodes(m *Masker) int { return len(m.plain.nodes) + len(m.base64.nodes) }
