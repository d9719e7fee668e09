package sts

import (
	"crypto/rand"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const (
	apiVersion = "2011-06-15"
	namespace  = "https://sts.amazonaws.com/doc/2011-06-15/"
)

// The answers: STS API reference, "Sample Response" of each action.
type (
	webIdentityResponse struct {
		XMLName  xml.Name          `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleWithWebIdentityResponse"`
		Result   webIdentityResult `xml:"AssumeRoleWithWebIdentityResult"`
		Metadata metadata          `xml:"ResponseMetadata"`
	}
	webIdentityResult struct {
		SubjectFromWebIdentityToken string
		Audience                    string
		AssumedRoleUser             assumedRoleUser
		Credentials                 credentials
		PackedPolicySize            int `xml:",omitempty"`
		Provider                    string
		SourceIdentity              string `xml:",omitempty"`
	}
	assumeRoleResponse struct {
		XMLName  xml.Name         `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleResponse"`
		Result   assumeRoleResult `xml:"AssumeRoleResult"`
		Metadata metadata         `xml:"ResponseMetadata"`
	}
	assumeRoleResult struct {
		AssumedRoleUser  assumedRoleUser
		Credentials      credentials
		PackedPolicySize int    `xml:",omitempty"`
		SourceIdentity   string `xml:",omitempty"`
	}
	callerIdentityResponse struct {
		XMLName  xml.Name             `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetCallerIdentityResponse"`
		Result   callerIdentityResult `xml:"GetCallerIdentityResult"`
		Metadata metadata             `xml:"ResponseMetadata"`
	}
	callerIdentityResult struct {
		Arn     string
		UserID  string `xml:"UserId"`
		Account string
	}
	errorResponse struct {
		XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
		Error     errorBody
		RequestID string `xml:"RequestId"`
	}
	errorBody       struct{ Type, Code, Message string }
	assumedRoleUser struct {
		Arn           string
		AssumedRoleID string `xml:"AssumedRoleId"`
	}
	credentials struct {
		AccessKeyID     string `xml:"AccessKeyId"`
		SecretAccessKey string
		SessionToken    string `xml:",omitempty"`
		Expiration      string `xml:",omitempty"`
	}
	metadata struct {
		RequestID string `xml:"RequestId"`
	}
)

// A stsError is a refusal with its place in the protocol.
type stsError struct {
	status        int
	code, message string
}

func (e *stsError) Error() string { return e.code + ": " + e.message }

func failure(status int, code, message string) error { return &stsError{status, code, message} }

func denied(message string) error { return failure(http.StatusForbidden, "AccessDenied", message) }

func invalid(format string, args ...any) error {
	return failure(http.StatusBadRequest, "ValidationError", "1 validation error detected: "+fmt.Sprintf(format, args...))
}

// requestID is the same in the header and in the XML, so that either finds it.
const requestIDHeader = "X-Amzn-Requestid"

func newRequestID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails: crypto/rand.Read
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func newMetadata() metadata { return metadata{newRequestID()} }

func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func writeError(w http.ResponseWriter, err error) {
	var e *stsError
	if !errors.As(err, &e) {
		e = &stsError{http.StatusInternalServerError, "InternalFailure", err.Error()}
	}
	side := "Sender"
	if e.status >= 500 {
		side = "Receiver"
	}
	id := newRequestID()
	w.Header().Set(requestIDHeader, id)
	writeXML(w, e.status, errorResponse{Error: errorBody{side, e.code, e.message}, RequestID: id})
}

func writeXML(w http.ResponseWriter, status int, v any) {
	out, err := xml.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeText(w, status, string(out))
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	if _, err := w.Write([]byte(text)); err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
}
