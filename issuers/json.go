package issuers

import "github.com/brevet-dev/brevet/issuers/strictjson"

// jsonLimits bounds one JSON document.
type jsonLimits struct {
	depth   int // of nested objects and arrays
	members int // of all objects together
}

// readJSONObject reads text as package strictjson does, which "brevet claims"
// reads tokens with inside a job.
func readJSONObject(text string, limits jsonLimits) (map[string]any, error) {
	return strictjson.Object(text, strictjson.Limits{Depth: limits.depth, Members: limits.members})
}
