package mask

// Forms returns the texts that a Masker for value looks for.
func Forms(value string) []string {
	var out []string
	for _, p := range patterns(value) {
		out = append(out, p.text)
	}
	return out
}

// Nodes returns the size of m's automaton.
func Nodes(m *Masker) int { return len(m.auto.nodes) }
