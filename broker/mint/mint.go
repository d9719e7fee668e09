// Package mint makes the credentials that the configuration names, one file a
// kind:
//
//	jwt       a token signed by the broker, for anyone who trusts its JWKS
//	data-key  a key to encrypt with, in clear and wrapped under the broker's KEK
//	aws-role  a session of an AWS role, from STS or a service that speaks its protocol
//	postgres  a login role of a PostgreSQL server, with the privileges of others
//
// [New] turns the configuration of one credential into a [broker.Target]. A
// minter keeps nothing but connections: what it needs to know comes with the session and the
// lease, so that any broker can renew what another one minted.
//
// # Templates
//
// The subject and the custom claims of a token, and the session tags and the
// source identity of an AWS session, are templates over the workload:
//
//	subject: "repo:{project_id}:{environment}"
//	claims: {branch: "{ref}", team: "{claims.repo_property_team}"}
//
// {name} is one of the fields below and {claims.NAME} a claim that the preset
// of an issuer declares; {{ and }} are literal braces. A template is read when
// the configuration is loaded, and an unknown name is an error there. A workload
// that lacks a value (a job without an environment, an empty claim, a list) is
// refused: there is no empty default that two different workloads could share.
//
//	issuer            the issuer's name in the configuration
//	workload_issuer   its iss
//	workload_subject  the sub of the subject token; its grammar may be the job's to choose
//	owner_id          owner             project_id        project
//	run               attempt           job               ref
//	environment       actor             actor_id          trigger
//	credential        the credential's name in the configuration
//	policy            the policy that granted it
//	lease             the id of the lease
//
// A value cannot forge the structure around it. Between two placeholders stands
// a separator, which no value contains: in each value everything but the plain
// characters is escaped as in a URL, byte by byte.
//
//	               separators  escape  plain, beside letters and digits   longest
//	subject        :           %3A     every other printable ASCII        255
//	claims         :           %3A     every other printable ASCII        1024
//	session_tags   :           =3A     _ . / + - @ and space              256
//	source_identity  + , @     =3A     _ . -                              64
//
// A subject or claim that becomes too long is refused. A session tag or source
// identity, whose room AWS limits, is replaced by "sha256:" (in a source
// identity "sha256@") and the SHA-256 of the whole text in unpadded base64url.
// No value can imitate that, for it holds a separator.
//
// # What cannot be revoked
//
// Neither tokens nor AWS sessions can be ended one by one. A signed token is checked offline, by
// its signature and exp alone. An STS session lives to its end, and AWS has no
// call to end it. Their leases say so (revocable: false), and what bounds them
// is a short ttl. In an emergency an operator attaches a deny to the AWS role,
// with the condition DateLessThan on aws:TokenIssueTime for everything issued
// so far, or on aws:SourceIdentity, aws:userid (it ends in ":" and the lease id)
// or a session tag for one job; and takes the credential out of the policies.
package mint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// The kinds of credential.
const (
	KindJWT     = "jwt"
	KindAWSRole = "aws-role"
	KindDataKey = api.KindDataKey

	KindPostgres = "postgres"
)

// Deps are what minters get from the broker around them.
type Deps struct {
	// URL is the broker's own issuer identifier: the iss of what it signs.
	URL string

	// Claims are the names of the claims that templates may use: all that the
	// presets of the configured issuers declare.
	Claims []string

	// Sign returns claims as a JWT with header typ, signed by the epoch key.
	Sign func(ctx context.Context, typ string, claims any) (string, error)

	// SignArchival, which data keys need, is Sign for what is verified years later: see
	// keys.Epochs.SignArchival.
	SignArchival func(ctx context.Context, typ string, claims any) (string, error)

	// WrapKey, which data keys need, encrypts one under the newest KEK.
	WrapKey func(ctx context.Context, k *broker.DataKey) (wrapped string, err error)

	// AWS finds the broker's own AWS identity, for aws-role with mode
	// assume_role. It is first called when such a credential is minted. nil
	// means the SDK's default chain: environment, shared files, container,
	// instance.
	AWS func(ctx context.Context, region string) (aws.CredentialsProvider, error)
}

// New returns the target that c describes. Its error joins a [FieldError] for
// each thing that is wrong with c: what [Config.Validate] finds, and what only
// the broker's URL and issuers show.
func New(c Config, d Deps) (broker.Target, error) {
	if d.URL == "" || d.Sign == nil {
		return broker.Target{}, errors.New("minters need the broker's url and a signer")
	}
	if err := joined(c.Validate()); err != nil {
		return broker.Target{}, err
	}
	if err := joined(c.validateAgainst(d)); err != nil {
		return broker.Target{}, err
	}
	switch c.Kind {
	case KindJWT:
		return newJWT(c, d)
	case KindAWSRole:
		return newAWSRole(c, d)
	case KindDataKey:
		return newDataKey(c, d)
	case KindPostgres:
		return newPostgres(c, d)
	}
	return broker.Target{}, fmt.Errorf("credential %s: no minter for kind %s", c.Name, c.Kind)
}

// clockSkew is how far the clocks of the broker and of whoever checks or counts
// may be apart. Machines on NTP agree within milliseconds; GitLab allows its
// verifiers the same five seconds.
const clockSkew = 5 * time.Second
