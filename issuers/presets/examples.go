package presets

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"strings"
)

// examples holds a payload for each preset, PRESET.json, and what differs from
// it for each variant, PRESET-VARIANT.json, as a merge patch (RFC 7396).
//
//go:embed examples/*.json
var examples embed.FS

// Example returns the payload of a token as the platform makes it, with invented
// values and numbers as [json.Number]: of the job that deploys, for the variant
// "", or another of [Variants]. Claims inside of objects are where the platform
// puts them. Each call makes a new one.
func Example(preset, variant string) (map[string]any, error) {
	payload, err := readExample(preset)
	if err != nil || variant == "" {
		return payload, err
	}
	patch, err := readExample(preset + "-" + variant)
	if err != nil {
		return nil, err
	}
	Merge(payload, patch)
	return payload, nil
}

func readExample(name string) (map[string]any, error) {
	text, err := examples.ReadFile("examples/" + name + ".json")
	if err != nil {
		return nil, fmt.Errorf("no example claims %s; there are %s", name, strings.Join(exampleNames(), ", "))
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var payload map[string]any
	if err := decoder.Decode(&payload); err != nil {
		return nil, fmt.Errorf("reading the example claims %s: %w", name, err)
	}
	return payload, nil
}

// Variants returns the names of the preset's variants, sorted.
func Variants(preset string) []string {
	var variants []string
	for _, name := range exampleNames() {
		if variant, ok := strings.CutPrefix(name, preset+"-"); ok {
			variants = append(variants, variant)
		}
	}
	return variants
}

func exampleNames() []string {
	files, _ := fs.Glob(examples, "examples/*.json") // fails for a bad pattern only
	for i, file := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(file, "examples/"), ".json")
	}
	return files
}

// Merge applies a merge patch (RFC 7396): members replace those of the same
// name, objects are merged, and null removes one. Objects of patch are not kept.
func Merge(object, patch map[string]any) {
	for name, value := range patch {
		inner, isObject := value.(map[string]any)
		if !isObject {
			object[name] = value
			continue
		}
		merged := make(map[string]any)
		if old, ok := object[name].(map[string]any); ok {
			maps.Copy(merged, old)
		}
		Merge(merged, inner)
		object[name] = merged
	}
	maps.DeleteFunc(object, func(_ string, value any) bool { return value == nil })
}
