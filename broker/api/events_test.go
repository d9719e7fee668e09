package api_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/brevet-dev/brevet/broker/api"
)

func TestEventReader(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name, text string
		want       string
		end        error
	}{
		{"nothing", "", "", io.EOF},
		{"a beginning, a sign of life, an event", "retry: 2000\nid: k1\n\n:\n\nevent: revoked\ndata: {\"session\":true}\n\n", `[ k1 ] [  ] [revoked  {"session":true}] `, io.EOF},
		{"line ends of other systems", "event: a\r\ndata:{}\r\n\r\n", "[a  {}] ", io.EOF},
		{"cut within an event", "event: revoked\ndata: {}\n", "", io.EOF},
		{"data of two lines", "data: {\ndata: }\n\n", "", api.ErrEvents},
		{"a line without end", "data: " + strings.Repeat("x", 5000), "", api.ErrEvents},
		{"a connection that breaks", "event: a\n\n", "[a  ] ", broken},
	} {
		var r io.Reader = strings.NewReader(c.text)
		if c.end == broken {
			r = io.MultiReader(r, iotest.ErrReader(broken))
		}
		events, got := api.NewEventReader(r), ""
		for {
			e, err := events.Next()
			if err != nil {
				if e != nil || !errors.Is(err, c.end) {
					t.Errorf("%s: ends with %v and %v, want %v", c.name, e, err, c.end)
				}
				break
			}
			got += fmt.Sprintf("[%s %s %s] ", e.Name, e.ID, e.Data)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// Whatever is read as a stream, an event or an error comes of it, and an end.
func FuzzEventReader(f *testing.F) {
	f.Add("retry: 1\nid: x\n\nevent: revoked\ndata: {}\n\n")
	f.Add(":\n\ndata\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		events := api.NewEventReader(strings.NewReader(text))
		for range strings.Count(text, "\n") + 2 {
			e, err := events.Next()
			if (e == nil) == (err == nil) {
				t.Fatalf("Next = %v, %v", e, err)
			}
			if err != nil {
				return
			}
		}
		t.Fatal("more events than lines")
	})
}
