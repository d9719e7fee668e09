package ststoken

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/function"
)

// ErrXML is what the tests reach directly, as the functions below.
var ErrXML = errXML

func Sign(req *http.Request, body, id, secret, token, region string, now time.Time) {
	sign(req, body, keys{id, api.NewSecret(secret), api.NewSecret(token)}, region, now)
}

// TextAt parses doc and returns the text at path.
func TextAt(doc string, path ...string) (string, error) {
	root, err := parseXML(doc)
	if err != nil {
		return "", err
	}
	return root.textAt(path...), nil
}

// Endpoint returns the URL of STS.
func Endpoint(region string, getenv func(string) string) (string, error) {
	return (&identity{getenv: getenv}).endpoint(region)
}

// At makes all that s asks for keys go to an address.
func At(s function.Source, addr string) {
	s.(*identity).near.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
}
