package sts

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Limits of the STS API reference.
const (
	minDuration     = 900
	defaultDuration = 3600
	maxDuration     = 43200
	maxPolicy       = 2048
	maxTags         = 50
	packedRoom      = 4096 // ours, see the package comment
	chainedDuration = 3600 // role chaining: at most one hour
)

var (
	sessionNameForm = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	externalIDForm  = regexp.MustCompile(`^[\w+=,.@:/-]+$`)
	tagKeyForm      = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]{1,128}$`)
	tagValueForm    = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]{0,256}$`)
	roleForm        = regexp.MustCompile(`^arn:aws[a-z-]*:iam::(\d{12}):role/([\w+=,.@/-]+)$`)
)

// readSession reads the parameters that both ways of assuming a role have.
func readSession(form url.Values) (*Issued, error) {
	out := &Issued{RoleARN: form.Get("RoleArn"), SessionName: form.Get("RoleSessionName"), Policy: form.Get("Policy")}
	if !roleForm.MatchString(out.RoleARN) {
		return nil, invalid("Value '%s' at 'roleArn' failed to satisfy constraint: Member must be the ARN of a role", out.RoleARN)
	}
	if !sessionNameForm.MatchString(out.SessionName) {
		return nil, invalid(`Value '%s' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]*`, out.SessionName)
	}
	seconds := defaultDuration
	if text := form.Get("DurationSeconds"); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil || seconds < minDuration || seconds > maxDuration {
			return nil, invalid("Value '%s' at 'durationSeconds' failed to satisfy constraint: Member must have value between %d and %d", text, minDuration, maxDuration)
		}
	}
	out.Duration = time.Duration(seconds) * time.Second
	return out, checkPolicy(out.Policy)
}

func checkPolicy(policy string) error {
	if policy == "" {
		return nil
	}
	if len(policy) > maxPolicy {
		return invalid("Value at 'policy' failed to satisfy constraint: Member must have length less than or equal to %d", maxPolicy)
	}
	var doc struct {
		Version   string
		Statement json.RawMessage
	}
	if json.Unmarshal([]byte(policy), &doc) != nil || len(doc.Statement) == 0 {
		return failure(http.StatusBadRequest, "MalformedPolicyDocument", "Syntax errors in policy.")
	}
	return nil
}

// checkExtras checks tags and source identity against STS's rules and against
// what the role's trust policy allows.
func checkExtras(i *Issued, role *Role, action string) error {
	if len(i.Tags) > maxTags {
		return invalid("Value at 'tags' failed to satisfy constraint: Member must have length less than or equal to %d", maxTags)
	}
	folded := map[string]bool{}
	for key, value := range i.Tags {
		lower := strings.ToLower(key)
		if !tagKeyForm.MatchString(key) || !tagValueForm.MatchString(value) || strings.HasPrefix(lower, "aws:") {
			return invalid("Value at 'tags' failed to satisfy constraint: the tag '%s' has a key or value that is not allowed", key)
		}
		if folded[lower] {
			return failure(http.StatusBadRequest, "InvalidParameterValue", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		folded[lower] = true
	}
	if s := i.SourceIdentity; s != "" && (!sessionNameForm.MatchString(s) || strings.HasPrefix(s, "aws:")) {
		return invalid("Value '%s' at 'sourceIdentity' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\w+=,.@-]*", s)
	}
	if len(i.Tags) > 0 && !role.TagSession {
		return denied("Not authorized to perform: sts:TagSession with " + action)
	}
	if i.SourceIdentity != "" && !role.SetSourceIdentity {
		return denied("Not authorized to perform: sts:SetSourceIdentity with " + action)
	}
	if packed := i.packedSize(); packed > 100 {
		return failure(http.StatusBadRequest, "PackedPolicyTooLarge",
			"Packed size of session tags consumes "+strconv.Itoa(packed)+"% of allotted space.")
	}
	return nil
}

// packedSize is in percent; 0 only if there is nothing to pack.
func (i *Issued) packedSize() int {
	bytes := len(i.Policy)
	for key, value := range i.Tags {
		bytes += len(key) + len(value)
	}
	return (bytes*100 + packedRoom - 1) / packedRoom
}

func checkDuration(i *Issued, role *Role) error {
	most := role.MaxSession
	if most == 0 {
		most = time.Hour
	}
	if i.Duration > most {
		return failure(http.StatusBadRequest, "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	return nil
}

// issue makes the credentials and remembers them.
func (s *Server) issue(i *Issued) {
	i.AccessKeyID = "ASIA" + randomText(10, base32.StdEncoding.EncodeToString)
	i.SecretAccessKey = randomText(30, base64.StdEncoding.EncodeToString)
	i.SessionToken = randomText(300, base64.StdEncoding.EncodeToString)
	account, name := splitRole(i.RoleARN)
	i.AssumedRoleARN = "arn:aws:sts::" + account + ":assumed-role/" + name + "/" + i.SessionName
	i.Expires = time.Now().Add(i.Duration).Truncate(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued = append(s.issued, *i)
}

func randomText(n int, encode func([]byte) string) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand.Read
	return encode(b)
}

// splitRole returns the account and, without its path, the name of a role.
func splitRole(arn string) (account, name string) {
	m := roleForm.FindStringSubmatch(arn)
	if m == nil {
		return "", ""
	}
	return m[1], m[2][strings.LastIndexByte(m[2], '/')+1:]
}

func (i *Issued) credentials(f Fault) credentials {
	c := credentials{i.AccessKeyID, i.SecretAccessKey, i.SessionToken, timestamp(i.Expires)}
	f.spoil(&c)
	return c
}

func (i *Issued) user() assumedRoleUser {
	return assumedRoleUser{Arn: i.AssumedRoleARN, AssumedRoleID: i.userID()}
}

// userID is what AWS calls aws:userid: the unique id of the role and the name
// of the session.
func (i *Issued) userID() string {
	_, name := splitRole(i.RoleARN)
	return "AROA" + base32.StdEncoding.EncodeToString([]byte(name + "..........")[:10]) + ":" + i.SessionName
}
