package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

// The kinds of credentials that tools can be given, and the values of each that
// are used. Another kind is refused even if its values have the same names: a
// database's password is not for a registry.
const (
	kindAWS = "aws-role" // access_key_id, secret_access_key, session_token
	kindJWT = "jwt"      // token
)

// values returns the values of l by name, if it is of kind and has them all, each
// fit for a line of text or a header.
func values(l api.Lease, tool, kind string, names ...string) ([]string, error) {
	if l.Kind != kind {
		return nil, failf(runner.Misconfigured, "ask for a credential of kind "+kind,
			"credential %s is of kind %s, which %s has no use for", runner.Printable(l.Credential), runner.Printable(l.Kind), tool)
	}
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = l.Values[name].Reveal()
		if out[i] == "" || strings.ContainsFunc(out[i], func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, failf(runner.Protocol, "", "the value %s of credential %s is missing, or not what %s can take", name, runner.Printable(l.Credential), tool)
		}
	}
	return out, nil
}

// expiration is the end of l as AWS and Kubernetes read it: RFC 3339.
func expiration(l api.Lease) string { return l.ExpiresAt.UTC().Format(time.RFC3339) }

// encode is for values that can be encoded. Its result is in clear.
func encode(tool string, v any) ([]byte, error) {
	out, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding the answer to %s", tool)
	}
	return out, nil
}

// AWSProcess returns l as AWS SDKs read it from a credential_process.
func AWSProcess(l api.Lease) ([]byte, error) {
	v, err := values(l, "AWS", kindAWS, "access_key_id", "secret_access_key", "session_token")
	if err != nil {
		return nil, err
	}
	return encode("AWS", struct {
		Version                                   int
		AccessKeyID                               string `json:"AccessKeyId"`
		SecretAccessKey, SessionToken, Expiration string
	}{1, v[0], v[1], v[2], expiration(l)})
}

// AWSContainer returns l as AWS SDKs read it from a container's endpoint.
func AWSContainer(l api.Lease) ([]byte, error) {
	v, err := values(l, "AWS", kindAWS, "access_key_id", "secret_access_key", "session_token")
	if err != nil {
		return nil, err
	}
	return encode("AWS", struct {
		AccessKeyID                        string `json:"AccessKeyId"`
		SecretAccessKey, Token, Expiration string
	}{v[0], v[1], v[2], expiration(l)})
}

// Token returns the token of l for tool, which takes tokens.
func Token(l api.Lease, tool string) (api.Secret, error) {
	v, err := values(l, tool, kindJWT, "token")
	if err != nil {
		return api.Secret{}, err
	}
	return api.NewSecret(v[0]), nil
}

const kubeVersion = "client.authentication.k8s.io/v1"

// Kubernetes returns l as an ExecCredential. info is what kubectl says of the
// cluster in KUBERNETES_EXEC_INFO; "" is taken for the newest version.
func Kubernetes(l api.Lease, info string) ([]byte, error) {
	var wanted struct {
		Version string `json:"apiVersion"`
		Kind    string `json:"kind"`
	}
	if info != "" {
		if err := json.Unmarshal([]byte(info), &wanted); err != nil || wanted.Kind != "ExecCredential" {
			return nil, failf(runner.Protocol, "", "KUBERNETES_EXEC_INFO is not an ExecCredential in JSON")
		}
		if wanted.Version != kubeVersion {
			return nil, failf(runner.Misconfigured, "write  apiVersion: "+kubeVersion+"  into the kubeconfig's exec",
				"kubectl asks for version %s of ExecCredential", runner.Printable(wanted.Version))
		}
	}
	token, err := Token(l, "Kubernetes")
	if err != nil {
		return nil, err
	}
	return encode("Kubernetes", map[string]any{
		"apiVersion": kubeVersion, "kind": "ExecCredential",
		"status": map[string]string{"token": token.Reveal(), "expirationTimestamp": expiration(l)},
	})
}

// Google returns l as Google's libraries read it from an executable
// (google.aip.dev/auth/4117). tokenType is what the library asks for in
// GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE; "" is taken for that of a JWT.
func Google(l api.Lease, tokenType string) ([]byte, error) {
	if tokenType == "" {
		tokenType = api.TokenTypeJWT
	}
	if tokenType != api.TokenTypeJWT && tokenType != api.TokenTypeIDToken {
		return nil, failf(runner.Misconfigured, "write  \"subject_token_type\": \""+api.TokenTypeJWT+"\"  into the file of the external account",
			"Google's library asks for a token of another type than JWT")
	}
	token, err := Token(l, "Google")
	if err != nil {
		return nil, err
	}
	return encode("Google", map[string]any{
		"version": 1, "success": true, "token_type": tokenType, "id_token": token.Reveal(), "expiration_time": l.ExpiresAt.Unix(),
	})
}

// GoogleError returns err as Google's libraries read it. They show its text only
// if the executable ends with status 0.
func GoogleError(err error) ([]byte, error) {
	code := "unavailable"
	if f, ok := errors.AsType[*runner.Failure](err); ok {
		switch f.Kind {
		case runner.Denied:
			code = "denied"
		case runner.Misconfigured:
			code = "misconfigured"
		}
	}
	return encode("Google", map[string]any{"version": 1, "success": false, "code": code, "message": err.Error()})
}
