package lambda

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// maxExtensions is how many a function may have, those within the runtime included.
const maxExtensions = 10

const (
	identifierHeader = "Lambda-Extension-Identifier"
	errorTypeHeader  = "Lambda-Extension-Function-Error-Type"
)

// register takes an extension: one that was started from a file, by the file's name,
// or else one within the runtime, which may not register for SHUTDOWN.
func (g *generation) register(w http.ResponseWriter, r *http.Request) {
	name := r.Header.Get("Lambda-Extension-Name")
	if name == "" {
		forbid(w, "Extension.InvalidExtensionName", "Empty extension name")
		return
	}
	events, problem := readEvents(r)
	if problem != "" {
		forbid(w, "InvalidRequestFormat", problem)
		return
	}
	p := g.admit(w, name, events)
	if p == nil {
		return
	}
	f := g.sandbox.function
	out := map[string]string{"functionName": f.Name, "functionVersion": f.Version, "handler": f.Handler}
	for feature := range strings.SplitSeq(r.Header.Get("Lambda-Extension-Accept-Feature"), ",") {
		if strings.TrimSpace(feature) == "accountId" {
			out["accountId"] = f.Account
		}
	}
	w.Header().Set(identifierHeader, p.id)
	write(w, http.StatusOK, out)
}

// maxRegistration is more than any request to register has, in bytes.
const maxRegistration = 64 << 10

func readEvents(r *http.Request) (events []string, problem string) {
	var in struct {
		Events            []string `json:"events"`
		ConfigurationKeys []string `json:"configurationKeys"`
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxRegistration))
	if err == nil {
		err = json.Unmarshal(body, &in)
	}
	if err != nil {
		return nil, err.Error()
	}
	if len(in.ConfigurationKeys) > 0 {
		return nil, "configurationKeys are deprecated; use environment variables instead"
	}
	return in.Events, ""
}

// admit returns the extension of a name, registered, or refuses.
func (g *generation) admit(w http.ResponseWriter, name string, events []string) *party {
	g.mu.Lock()
	defer g.mu.Unlock()
	var p *party
	if at := slices.IndexFunc(g.extensions, func(p *party) bool { return p.name == name }); at >= 0 {
		p = g.extensions[at]
	}
	external := p != nil && !p.internal
	if problem := unknownEvent(events, external); problem != "" {
		forbid(w, "Extension.InvalidEventType", problem)
		return nil
	}
	if external && p.state != started {
		forbidState(w, p, registered, name)
		return nil
	}
	if !external {
		if p = g.admitInternalLocked(w, name, p != nil); p == nil {
			return nil
		}
	}
	p.state, p.events = registered, slices.Compact(slices.Sorted(slices.Values(events)))
	g.announceLocked()
	return p
}

// unknownEvent says what is wrong with events; "": nothing.
func unknownEvent(events []string, external bool) string {
	for _, e := range events {
		switch {
		case e == eventShutdown && !external:
			return e + ": ShutdownEventNotSupportedForInternalExtension"
		case e != eventInvoke && e != eventShutdown:
			return e + ": ErrorInvalidEventType"
		}
	}
	return ""
}

// admitInternalLocked makes an extension within the runtime, or refuses.
func (g *generation) admitInternalLocked(w http.ResponseWriter, name string, taken bool) *party {
	switch {
	case g.closed:
		forbid(w, "Extension.RegistrationClosed", "Extension registration closed already")
		return nil
	case len(g.extensions) >= maxExtensions:
		forbid(w, "Extension.TooManyExtensions", "Extension limit (10) reached")
		return nil
	case taken:
		forbid(w, "Extension.InvalidExtensionState", "Extension with this name already registered")
		return nil
	}
	p := &party{name: name, id: newUUID(), internal: true}
	g.extensions = append(g.extensions, p)
	return p
}

func forbidState(w http.ResponseWriter, p *party, to, who string) {
	forbid(w, "Extension.InvalidExtensionState",
		"State transition from "+p.state+" to "+to+" failed for extension "+who+". Error: State transition is not allowed")
}

// uuids is the form of identifiers.
var uuids = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// identified finds the extension that a request is of, or refuses.
func identified(h func(*generation, *party, http.ResponseWriter, *http.Request)) func(*generation, http.ResponseWriter, *http.Request) {
	return func(g *generation, w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(identifierHeader)
		if p := g.extension(id); p != nil {
			h(g, p, w, r)
			return
		}
		switch {
		case id == "":
			forbid(w, "Extension.MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header")
		case !uuids.MatchString(id):
			forbid(w, "Extension.InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier")
		default:
			forbid(w, "Extension.UnknownExtensionIdentifier", "Unknown extension "+id)
		}
	}
}

func (g *generation) extension(id string) *party {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.extensions {
		if p.id == id && id != "" {
			return p
		}
	}
	return nil
}

// eventNext gives an extension its next event, when there is one.
func (g *generation) eventNext(p *party, w http.ResponseWriter, r *http.Request) {
	if !g.moveExtension(w, p, ready, registered, running) {
		return
	}
	var e *event
	err := g.await(r.Context(), func() bool {
		if e = p.next; e == nil {
			return false
		}
		p.next, p.state = nil, running
		return true
	})
	if err != nil {
		return // it went away
	}
	w.Header().Set("Lambda-Extension-Event-Identifier", newUUID())
	write(w, http.StatusOK, e)
}

// moveExtension moves p from one of some states to another, or refuses.
func (g *generation) moveExtension(w http.ResponseWriter, p *party, to string, from ...string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(from, p.state) {
		forbidState(w, p, to, p.id)
		return false
	}
	p.state = to
	g.announceLocked()
	return true
}

// extensionError returns a handler of an error that an extension reports before it
// exits. It is a failure when its process has ended.
func extensionError(to string, from ...string) func(*generation, *party, http.ResponseWriter, *http.Request) {
	return func(g *generation, p *party, w http.ResponseWriter, r *http.Request) {
		errorType := r.Header.Get(errorTypeHeader)
		if errorType == "" {
			forbid(w, "Extension.MissingHeader", errorTypeHeader+" not found")
			return
		}
		if !g.moveExtension(w, p, to, append(from, to)...) {
			return
		}
		g.sandbox.log.printf("EXTENSION Name: %s State: %s Error Type: %s", p.name, to, errorType)
		accept(w)
	}
}
