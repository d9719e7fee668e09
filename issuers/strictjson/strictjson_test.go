package strictjson_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers/strictjson"
)

// read reads with the limits of a token.
func read(text string) (map[string]any, error) {
	return strictjson.Object(text, strictjson.Limits{Depth: 16, Members: 200})
}

func goodJSON() []string {
	return []string{
		`{}`, " {\t\"a\" :\r\n[ 1 , -0, 0.5,1e9, -1.25E-3, true, false,null, {} ,[]] } ",
		`{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00","\u0062":"é😀"}`,
		`{"aud":"x","audience":"y","ſ":"long s"}`, `{"a":{"b":1},"b":{"a":1}}`, `{"":""}`, `{"a":100}`, `{"a":"\t b"}`,
		`{"[":1,"{":2,"@":3,"` + "`" + `":4}`, // 32 apart, as letters are, and no letters
	}
}

func badJSON() []string {
	return []string{
		``, ` `, `null`, `1`, `[]`, `"x"`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{,}`, `{a:1}`, `{"a" 1}`,
		`["a":1}`, `x"a":1}`, `{"a":trux}`, `{"a":falsy}`, `{"a":nul}`, `{"a":1e+-5}`,
		`{"a":"\t`, "{\"a\":\"\\t\x01\"}", `{"a":"\q0041"}`, `{"a":"\u00`, `{"a":"\u0041`,
		`{"a":1 "b":2}`, `{"a":1}x`, `{"a":1}{}`, "\ufeff{}", `{"a":[1,]}`, `{"a":[1 2]}`, `{"a":[}`, `{"a":tru}`, `{"a":True}`,
		`{"a":01}`, `{"a":+1}`, `{"a":-}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":0x1}`, `{"a":NaN}`, `{"a":'x'}`,
		`{"a":"x}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u+123"}`, "{\"a\":\"\n\"}", "{\"a\":\"\\\x00\"}", "{\"a\":\"\xff\"}", "{\"a\xff\":1}",
		`{"a":"\ud83d"}`, `{"a":"\ude00"}`, `{"a":"\ud83dx"}`, `{"a":"\ud83d\u0041"}`, `{"a":"\ud83d\ud83d"}`,
		`{"a":1,"a":2}`, `{"a":1,"A":2}`, `{"z":1,"Z":2}`, `{"AB":1,"CD":2,"ab":3}`, `{"a":1,"\u0061":2}`, `{"iss":1,"iſs":2}`, `{"kid":1,"` + "\u212a" + `id":2}`, `{"é":1,"É":2}`, `{"x":{"a":1,"A":2}}`,
		`{"x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`, `{"x":0` + manyMembers(200) + `}`,
	}
}

func TestObject(t *testing.T) {
	for _, text := range append(goodJSON(), `{"x":`+strings.Repeat("[", 15)+strings.Repeat("]", 15)+`}`, `{"x":0`+manyMembers(199)+`}`) {
		if _, err := read(text); err != nil {
			t.Errorf("Object(%.60q) = %v", text, err)
		}
	}
	for _, text := range badJSON() {
		if object, err := read(text); err == nil || object != nil {
			t.Errorf("Object(%.60q) = %v, %v, want an error", text, object, err)
		}
	}
}

// FuzzStrictJSON compares with encoding/json: what we accept it reads in the
// same way.
func FuzzStrictJSON(f *testing.F) {
	for _, text := range append(goodJSON(), badJSON()...) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := read(text)
		if err != nil {
			if got != nil {
				t.Fatalf("Object(%q) = %v and %v", text, got, err)
			}
			return
		}
		decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
		decoder.UseNumber()
		var want map[string]any
		if err := decoder.Decode(&want); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", text, err)
		}
		if _, err := decoder.Token(); err != io.EOF {
			t.Fatalf("text behind %q", text)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("Object(%q) = %v, encoding/json reads %v", text, got, want)
		}
	})
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"m%d":0`, i)
	}
	return b.String()
}
