package issuers

// Recall makes the identity of a workload again whose token was verified
// earlier, from what was recorded of it: at a renewal the token is long gone.
// claims are the identity's Claims after a journey through JSON with numbers as
// [encoding/json.Number].
//
// It fails with [ErrInvalidToken] if the issuer of that name is not configured
// any more, is another one now, or declares the claims differently. The
// identity has no ReplayID and no times: it cannot be exchanged again.
func (s *Set) Recall(name, url, subject string, claims map[string]any) (*Identity, error) {
	is, configured := s.byName[name]
	if !configured || is.url != url {
		return nil, refuse(ReasonUnknownIssuer, "the issuer that vouched is not configured any more")
	}
	declared, err := declaredClaims(claims, is.preset)
	if err != nil {
		return nil, err
	}
	if err := is.rules.checkFacts(declared, subject); err != nil {
		return nil, err
	}
	return &Identity{
		Issuer: is.name, URL: is.url, Preset: is.preset, Subject: subject,
		Claims: declared, Workload: workload(declared, is.preset),
	}, nil
}
