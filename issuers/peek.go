package issuers

// Peek reads what a token says, with the same strictness as [Set.Verify], and
// believes nothing of it: whoever made the token chose its claims. It is for
// showing them to people; numbers are [encoding/json.Number]. The error is a
// [*TokenError] and says nothing of the token's text.
func Peek(raw string) (claims map[string]any, err error) {
	t, err := parseToken(raw)
	if err != nil {
		return nil, err
	}
	return t.claims, nil
}

// ByURL returns the name of the issuer whose tokens have url as their iss, ""
// if none is configured. It compares byte for byte, as [Set.Verify] does.
func (s *Set) ByURL(url string) string {
	is, configured := s.byURL[url]
	if !configured {
		return ""
	}
	return is.name
}
