package sts

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"
)

func (s *Server) assumeRole(c *call, fault Fault) (any, error) {
	caller, err := s.authenticate(c)
	if err != nil {
		return nil, err
	}
	session, err := readSession(c.form)
	if err != nil {
		return nil, err
	}
	session.SourceIdentity = c.form.Get("SourceIdentity")
	if session.Tags, err = readTags(c.form); err != nil {
		return nil, err
	}
	role := s.role(session.RoleARN)
	if role == nil || !slices.Contains(role.Principals, caller.principal) || !role.knows(c.form) {
		return nil, denied(fmt.Sprintf("User: %s is not authorized to perform: sts:AssumeRole on resource: %s", caller.arn, session.RoleARN))
	}
	if caller.session != nil && session.Duration > chainedDuration*time.Second {
		return nil, invalid("The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	}
	if err := checkDuration(session, role); err != nil {
		return nil, err
	}
	if err := checkExtras(session, role, "AssumeRole"); err != nil {
		return nil, err
	}
	s.issue(session)
	return assumeRoleResponse{Metadata: newMetadata(), Result: assumeRoleResult{
		AssumedRoleUser: session.user(), Credentials: session.credentials(fault),
		PackedPolicySize: session.packedSize(), SourceIdentity: session.SourceIdentity,
	}}, nil
}

// knows checks the external id.
func (r *Role) knows(form url.Values) bool {
	given := form.Get("ExternalId")
	if given != "" && !externalIDForm.MatchString(given) {
		return false
	}
	return r.ExternalID == "" || given == r.ExternalID
}

// readTags reads Tags.member.N.Key and .Value, N from 1 without gaps.
func readTags(form url.Values) (map[string]string, error) {
	tags := map[string]string{}
	for n := 1; ; n++ {
		prefix := "Tags.member." + strconv.Itoa(n)
		if !form.Has(prefix + ".Key") {
			return tags, nil
		}
		key := form.Get(prefix + ".Key")
		if _, twice := tags[key]; twice {
			return nil, failure(400, "InvalidParameterValue", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		tags[key] = form.Get(prefix + ".Value")
	}
}

func (s *Server) callerIdentity(c *call) (any, error) {
	caller, err := s.authenticate(c)
	if err != nil {
		return nil, err
	}
	return callerIdentityResponse{Metadata: newMetadata(), Result: callerIdentityResult{
		Arn: caller.arn, UserID: caller.userID, Account: caller.account,
	}}, nil
}
