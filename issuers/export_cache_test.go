package issuers

import (
	"crypto/sha256"
	"reflect"
	"time"
)

// Limits of the cache of verified tokens, and of clocks.
const (
	MaxCached      = maxCached
	MaxCachedBytes = maxCachedBytes
	DefaultSkew    = defaultSkew
)

// Remembers reports whether s would accept raw at now without verifying it.
// What it would not is forgotten.
func (s *Set) Remembers(raw string, now time.Time) bool { return s.verified.find(raw, now) != nil }

// Forget empties the cache of verified tokens.
func (s *Set) Forget() { s.verified = newCache() }

// Cached returns every text in what is remembered of raw, and its bytes by the
// cache's account.
func (s *Set) Cached(raw string) (texts []string, size int) {
	element := s.verified.entries[sha256.Sum256([]byte(raw))]
	if element == nil {
		return nil, 0
	}
	entry := element.Value.(*cached)
	texts = append(texts, string(entry.digest[:]))
	for _, part := range []any{entry.times, *entry.id} {
		collectTexts(reflect.ValueOf(part), &texts)
	}
	return texts, entry.size
}

// collectTexts adds the strings and the bytes that v holds. Presets are the
// configuration's.
func collectTexts(v reflect.Value, out *[]string) {
	switch v.Kind() {
	case reflect.String:
		*out = append(*out, v.String())
	case reflect.Interface:
		collectTexts(v.Elem(), out)
	case reflect.Struct:
		for i := range v.NumField() {
			collectTexts(v.Field(i), out)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			collectTexts(v.MapIndex(key), out)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			*out = append(*out, string(v.Bytes()))
			return
		}
		for i := range v.Len() {
			collectTexts(v.Index(i), out)
		}
	}
}
