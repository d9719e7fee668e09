package policies

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// The kinds of document that there are schemas of.
const (
	KindPolicy     = "policy"
	KindTest       = "test" // a document of a file *_test.yaml
	KindGuardrails = "guardrails"
	KindDefaults   = "defaults"
)

// SchemaKinds returns the kinds of document that [Schema] knows.
func SchemaKinds() []string {
	return []string{KindPolicy, KindTest, KindGuardrails, KindDefaults}
}

// Schema returns a JSON Schema (draft 2020-12) of one kind of document, or with
// "" of what a file that holds no tests may hold, for editors to complete and
// check what is typed. It is made of the types that documents are decoded into.
// With o it knows the issuers, their claims, and the credentials; with zero
// Options it takes any.
//
// It takes whatever [Load] takes. What Load refuses it may take: pins,
// guardrails and conditions are beyond it.
func Schema(kind string, o Options) ([]byte, error) {
	m := schemaMaker{options: o, defs: schema{}}
	var root schema
	switch {
	case kind == "":
		root = m.anyDocument()
	case slices.Contains(SchemaKinds(), kind):
		root = m.document(kind)
	default:
		return nil, fmt.Errorf("there is no kind of document %q; there are %s", kind, strings.Join(SchemaKinds(), ", "))
	}
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$comment"] = "Made by brevetd policy schema; make it anew when brevetd or its configuration changes."
	if len(m.defs) > 0 {
		root["$defs"] = m.defs
	}
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding a schema: %w", err)
	}
	return append(out, '\n'), nil
}

// A schema is one, or a part of one. JSON has its keys sorted.
type schema map[string]any

type schemaMaker struct {
	options Options
	defs    schema // by name
}

// anyDocument is for files of documents of several kinds, which the key that
// names a document tells apart.
func (m *schemaMaker) anyDocument() schema {
	kinds := []string{KindPolicy, KindGuardrails, KindDefaults}
	var named, rules []any
	names := schema{}
	for _, kind := range kinds {
		m.defs[kind] = m.document(kind)
		names[kind] = true
		named = append(named, schema{"required": []string{kind}})
		rules = append(rules, schema{"if": schema{"required": []string{kind}}, "then": ref(kind)})
	}
	return schema{
		"title": "a document of brevet's policies", "type": "object",
		"properties": names, "anyOf": named, "allOf": rules,
	}
}

func ref(name string) schema { return schema{"$ref": "#/$defs/" + name} }

func (m *schemaMaker) document(kind string) schema {
	switch kind {
	case KindTest:
		return schema{"title": "tests of brevet's policies", "anyOf": []any{m.object(reflect.TypeFor[testFile]()), m.object(reflect.TypeFor[testList]())}}
	case KindGuardrails:
		return m.withIssuers(m.object(reflect.TypeFor[guardrailsDocument](), "guardrails"), func(issuer string) schema {
			match := schema{"match": ref("match." + issuer)}
			return schema{
				"require": ref("match." + issuer), "deny": itemsWith(match), "credentials": itemsWith(match),
			}
		})
	case KindDefaults:
		return m.withIssuers(m.object(reflect.TypeFor[defaultsDocument](), "defaults"), func(issuer string) schema {
			return schema{"match": ref("match." + issuer)}
		})
	}
	return m.withIssuers(m.object(reflect.TypeFor[document](), "policy", "grant"), func(issuer string) schema {
		return schema{
			"match": ref("match." + issuer), "names": ref("names." + issuer),
			"tests": itemsWith(schema{"claims": ref("claims." + issuer), "with": ref("claims." + issuer)}),
		}
	})
}

func itemsWith(properties schema) schema { return schema{"items": schema{"properties": properties}} }

// withIssuers adds to a document what holds if it names an issuer.
func (m *schemaMaker) withIssuers(of schema, properties func(issuer string) schema) schema {
	var rules []any
	for _, issuer := range m.issuers() {
		m.defineClaims(issuer)
		rules = append(rules, schema{
			"if":   schema{"properties": schema{"issuer": schema{"const": issuer}}, "required": []string{"issuer"}},
			"then": schema{"properties": properties(issuer)},
		})
	}
	if len(rules) > 0 {
		of["allOf"] = rules
	}
	return of
}

func (m *schemaMaker) issuers() []string { return slices.Sorted(maps.Keys(m.options.Issuers)) }

// defineClaims defines what can be said of the claims of one issuer.
func (m *schemaMaker) defineClaims(issuer string) {
	match, names, claims := schema{}, schema{}, schema{}
	for name, decl := range m.options.Issuers[issuer].Claims {
		match[name] = described(matchSchema(decl), decl.Doc)
		claims[name] = described(claimSchema(decl.Type), decl.Doc)
		if decl.Type == presets.String {
			names[name] = described(schema{"type": "string", "minLength": 1}, decl.Doc)
		}
	}
	for kind, properties := range map[string]schema{"match": match, "names": names, "claims": claims} {
		m.defs[kind+"."+issuer] = schema{"type": "object", "properties": properties, "additionalProperties": false}
	}
}

func described(s schema, text string) schema {
	if text != "" {
		s["description"] = text
	}
	return s
}

// matchSchema is of an entry of match.
func matchSchema(decl presets.Claim) schema {
	var forms []any
	switch decl.Type {
	case presets.StringList:
		forms = []any{form("contains", schema{"type": "string", "minLength": 1})}
	case presets.String:
		if len(decl.Values) > 0 {
			forms = append(forms, schema{"enum": decl.Values})
		}
		forms = append(forms, claimSchema(decl.Type))
		if decl.Kind != presets.Immutable {
			forms = append(forms, globSchema())
		}
	default:
		forms = []any{claimSchema(decl.Type)}
	}
	return oneOrMore(forms)
}

func oneOrMore(forms []any) schema {
	list := schema{"type": "array", "minItems": 1, "maxItems": maxValues, "items": schema{"anyOf": forms}}
	return schema{"anyOf": append(slices.Clone(forms), list)}
}

func form(key string, value schema) schema {
	return schema{"type": "object", "properties": schema{key: value}, "required": []string{key}, "additionalProperties": false}
}

func globSchema() schema {
	return form("glob", schema{"type": "string", "pattern": `\*`, "maxLength": maxGlob})
}

func claimSchema(t presets.Type) schema {
	switch t {
	case presets.Int:
		return schema{"type": "integer"}
	case presets.Bool:
		return schema{"type": "boolean"}
	case presets.StringList:
		return schema{"type": "array", "items": schema{"type": "string"}}
	}
	return schema{"type": "string"}
}

// object is of a struct that documents are decoded into.
func (m *schemaMaker) object(t reflect.Type, required ...string) schema {
	properties := schema{}
	m.fields(t, properties)
	out := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

// fields adds the fields of a struct, by the names that strictyaml gives them.
func (m *schemaMaker) fields(t reflect.Type, properties schema) {
	special, texts := m.special(), schemaTexts()
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if options == "inline" {
			m.fields(f.Type, properties)
			continue
		}
		key := t.Name() + "." + name
		s, ok := special[key]
		if !ok {
			s = m.value(f.Type)
		}
		s = maps.Clone(s)
		maps.Copy(s, bounds()[key])
		properties[name] = described(s, texts[key])
	}
}

// value is of a type without a meaning of its own.
func (m *schemaMaker) value(t reflect.Type) schema {
	if t == reflect.TypeFor[time.Duration]() {
		return schema{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(h|m|s|ms))+$`}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return m.value(t.Elem())
	case reflect.Struct:
		return m.object(t, required()[t.Name()]...)
	case reflect.Slice:
		return schema{"type": "array", "items": m.value(t.Elem())}
	case reflect.Map:
		return schema{"type": "object", "additionalProperties": m.value(t.Elem())}
	case reflect.Int:
		return schema{"type": "integer", "minimum": 1}
	case reflect.Interface:
		return schema{"type": []string{"string", "integer", "boolean", "array"}}
	}
	return schema{"type": "string"}
}

// special is what the types do not tell, by type and key.
func (m *schemaMaker) special() map[string]schema {
	name := schema{"type": "string", "pattern": fmt.Sprintf("^[a-z0-9-]{1,%d}$", maxName)}
	reason := schema{"type": "string", "minLength": 1, "maxLength": maxReason}
	issuer, credential := oneOf(m.issuers()), oneOf(slices.Sorted(maps.Keys(m.options.Credentials)))
	credentials := schema{"type": "array", "items": credential}
	mode := oneOf([]string{"enforce", "shadow"})
	return map[string]schema{
		"document.policy": name, "guardrailsDocument.guardrails": name, "defaultsDocument.defaults": name,
		"document.issuer": issuer, "guardrailsDocument.issuer": issuer, "defaultsDocument.issuer": issuer, "fileCase.issuer": issuer,
		"document.mode": mode, "defaultsDocument.mode": mode,
		"document.match": m.anyMatch(), "defaultsDocument.match": m.anyMatch(), "guardrailsDocument.require": m.anyMatch(),
		"denyEntry.match": m.anyMatch(), "allowEntry.match": m.anyMatch(),
		"document.names":   m.anyClaims(schema{"type": "string", "minLength": 1}),
		"testEntry.claims": m.anyClaims(m.value(reflect.TypeFor[any]())), "testEntry.with": m.anyClaims(m.value(reflect.TypeFor[any]())),
		"document.expires":          {"type": "string", "pattern": `^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2}))?$`},
		"unsafeEntry.reason":        reason,
		"grantEntry.credential":     credential,
		"grantEntry.scope":          oneOf([]string{"job", string(ScopeRun)}),
		"grantEntry.on_leak":        oneOf([]string{"report", string(RevokeOnLeak)}),
		"grantEntry.allow":          {"type": "array", "minItems": 1, "uniqueItems": true, "items": oneOf(operations)},
		"limitsEntry.live":          {"type": "integer", "minimum": 1, "maximum": maxLive},
		"limitsEntry.per_minute":    {"type": "integer", "minimum": 1, "maximum": maxPerMinute},
		"testEntry.allow":           credentials,
		"testEntry.deny":            credentials,
		"guardrailsDocument.unsafe": oneOf([]string{"refuse"}),
	}
}

// bounds is what special is, beside what the types tell.
func bounds() map[string]schema {
	return map[string]schema{
		"document.grant": {"minItems": 1, "maxItems": maxGrants},
		"document.tests": {"maxItems": maxTests},
	}
}

// required are the keys that a struct inside of a document must have.
func required() map[string][]string {
	return map[string][]string{"grantEntry": {"credential"}, "testEntry": {"name"}, "fileCase": {"name"}, "unsafeEntry": {"reason"}}
}

// oneOf is of a string that is one of a list, or any if nothing is known.
func oneOf(list []string) schema {
	if len(list) == 0 {
		return schema{"type": "string", "minLength": 1}
	}
	return schema{"enum": list}
}

// anyMatch and anyClaims are of claims of any issuer.

func (m *schemaMaker) anyMatch() schema {
	scalar := schema{"type": []string{"string", "integer", "boolean"}}
	return m.anyClaims(oneOrMore([]any{scalar, globSchema(), form("contains", schema{"type": "string", "minLength": 1})}))
}

func (m *schemaMaker) anyClaims(value schema) schema {
	out := schema{"type": "object", "additionalProperties": value}
	names := map[string]bool{}
	for _, p := range m.options.Issuers {
		for name := range p.Claims {
			names[name] = true
		}
	}
	if len(names) > 0 {
		out["propertyNames"] = oneOf(slices.Sorted(maps.Keys(names)))
	}
	return out
}
