package extension

import (
	"net/http"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/function"
)

// What the tests reach directly.
var (
	ErrXML   = errXML
	MaxConns = maxConns
)

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

// NewIdentity returns the source of tokens with an environment.
func NewIdentity(getenv func(string) string) (function.Source, error) {
	return newIdentity(getenv, DefaultPort)
}

// Endpoint returns the URL of STS.
func Endpoint(region string, getenv func(string) string) (string, error) {
	return (&identity{getenv: getenv}).endpoint(region)
}

// Folder makes the extension's folder.
func Folder(dir string) error {
	_, err := openFolder(dir, false)
	return err
}

// Wipe removes a folder.
func Wipe(dir string) error { return wipe(dir) }
