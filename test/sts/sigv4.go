package sts

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// A caller is whoever signed a request.
type caller struct {
	arn       string // as GetCallerIdentity shows it
	principal string // as trust policies name it: the user, or the role assumed
	userID    string
	account   string
	session   *Issued // nil for a user

	keyID, secret, token string
}

// maxSkew is how old a signed request may be: IAM User Guide, Signature
// Version 4.
const maxSkew = 15 * time.Minute

// A scope is what the Authorization header says: Credential=ID/DATE/REGION/
// SERVICE/aws4_request, SignedHeaders=A;B, Signature=HEX.
type scope struct {
	keyID, date, region, service string
	headers                      []string
}

func parseScope(header string) (*scope, bool) {
	rest, ok := strings.CutPrefix(header, "AWS4-HMAC-SHA256 ")
	fields := map[string]string{}
	for field := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[name] = value
	}
	parts := strings.Split(fields["Credential"], "/")
	if !ok || len(parts) != 5 || parts[4] != "aws4_request" || fields["Signature"] == "" {
		return nil, false
	}
	return &scope{parts[0], parts[1], parts[2], parts[3], strings.Split(fields["SignedHeaders"], ";")}, true
}

// authenticate checks the signature of a request by making it again.
func (s *Server) authenticate(c *call) (*caller, error) {
	header := c.http.Header.Get("Authorization")
	if header == "" {
		return nil, failure(http.StatusForbidden, "MissingAuthenticationToken", "Request is missing Authentication Token")
	}
	sc, ok := parseScope(header)
	if !ok {
		return nil, failure(http.StatusBadRequest, "IncompleteSignature", "The Authorization header is not one of Signature Version 4")
	}
	who := s.find(sc.keyID)
	if who == nil || who.token != c.http.Header.Get("X-Amz-Security-Token") {
		return nil, failure(http.StatusForbidden, "InvalidClientTokenId", "The security token included in the request is invalid.")
	}
	if who.session != nil && !time.Now().Before(who.session.Expires) {
		return nil, failure(http.StatusForbidden, "ExpiredToken", "The security token included in the request is expired")
	}
	at, err := time.Parse("20060102T150405Z", c.http.Header.Get("X-Amz-Date"))
	if err != nil || at.Format("20060102") != sc.date || time.Since(at).Abs() > maxSkew || sc.service != "sts" {
		return nil, failure(http.StatusForbidden, "SignatureDoesNotMatch", "Signature expired, not yet current, or scoped to another service")
	}
	want, err := sign(c, sc, who, at)
	if err != nil || subtle.ConstantTimeCompare([]byte(want), []byte(header)) != 1 {
		return nil, failure(http.StatusForbidden, "SignatureDoesNotMatch",
			"The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.")
	}
	return who, nil
}

// sign returns the Authorization header that the request must have.
func sign(c *call, sc *scope, who *caller, at time.Time) (string, error) {
	again, err := http.NewRequestWithContext(c.ctx, c.http.Method, "http://"+c.http.Host+c.http.URL.RequestURI(), nil)
	if err != nil {
		return "", err
	}
	for _, name := range sc.headers {
		switch name {
		case "host": // taken from the URL
		case "content-length":
			again.ContentLength = int64(len(c.body))
		default:
			again.Header[http.CanonicalHeaderKey(name)] = c.http.Header.Values(name)
		}
	}
	hash := sha256.Sum256(c.body)
	as := aws.Credentials{AccessKeyID: who.keyID, SecretAccessKey: who.secret, SessionToken: who.token}
	if err := v4.NewSigner().SignHTTP(c.ctx, as, again, hex.EncodeToString(hash[:]), sc.service, sc.region, at); err != nil {
		return "", err
	}
	return again.Header.Get("Authorization"), nil
}

// find returns whose key it is.
func (s *Server) find(keyID string) *caller {
	for _, u := range s.config.Users {
		if u.AccessKeyID == keyID {
			account := strings.Split(u.ARN+":::::", ":")[4]
			return &caller{arn: u.ARN, principal: u.ARN, userID: "AIDA" + keyID, account: account, keyID: keyID, secret: u.SecretAccessKey}
		}
	}
	for _, i := range s.Issued() {
		if i.AccessKeyID == keyID {
			account, _ := splitRole(i.RoleARN)
			return &caller{
				arn: i.AssumedRoleARN, principal: i.RoleARN, userID: i.userID(), account: account, session: &i,
				keyID: keyID, secret: i.SecretAccessKey, token: i.SessionToken,
			}
		}
	}
	return nil
}
