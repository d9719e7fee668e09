package tpm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// What can be wrong with a TPM or with a root in it, for errors.Is. The error
// that a method returns says more than these.
var (
	// ErrAuth says that the TPM does not accept the auth value. Each try counts
	// towards ErrLockout, so a Root tries once, and Open not again until the file with
	// the value was changed.
	ErrAuth = errors.New("the TPM refuses the auth value of the root's keys; put back the right one and start again")

	// ErrLockout says that the TPM refuses even the right auth value for a
	// while, because wrong ones were tried or it lost power while in use.
	ErrLockout = errors.New("the TPM is locked against guessing of auth values and refuses right ones, too")

	// ErrPCR says that a PCR which the keys are bound to has another value than
	// when they were made: other software was started.
	ErrPCR = errors.New("the platform was started with other software than when the root was made; start the former one, or make a new root")

	// ErrObjectMemory says that there is no room for a key in the TPM.
	ErrObjectMemory = errors.New("the TPM has no room for another key: other programs keep theirs loaded; use /dev/tpmrm0, which shares it, or end them")

	// ErrSessionMemory says that there is no room for a session in the TPM.
	ErrSessionMemory = errors.New("the TPM has no room for another session: other programs keep theirs open; use /dev/tpmrm0, which shares it, or end them")

	// ErrHung says that the TPM did not answer in time.
	ErrHung = errors.New("the TPM does not answer; it is used again as soon as it does: look whether it is stopped, or held by another program")

	// ErrVanished says that there is nothing where the TPM should be.
	ErrVanished = errors.New("the TPM cannot be reached; it is used again as soon as it can: look at its device or socket, and at who may open it")

	// ErrNotStarted says that a TPM on a device got no TPM2_Startup, which the
	// firmware or the kernel should have sent.
	ErrNotStarted = errors.New("the TPM was not started by the platform; restart the machine")

	// ErrOtherTPM says that the keys in the state folder were not made by this
	// TPM, or that it was cleared since: they are lost.
	ErrOtherTPM = errors.New("this is another TPM than the one that made the keys in the state folder, or it was cleared since; attach the former one, or make a new root")

	// ErrHierarchy says that the owner or endorsement hierarchy has a password,
	// without which nothing can be made or found in it.
	ErrHierarchy = errors.New("the TPM's owner or endorsement hierarchy has a password; remove it with tpm2_changeauth")

	// ErrCounter says that the counter is not in the TPM any more.
	ErrCounter = errors.New("the root's counter was removed from the TPM; make a new root")

	// ErrUnsure says that it is not known whether the counter went up.
	ErrUnsure = errors.New("the TPM was lost before it said whether it had counted; read the count before counting again")

	// ErrChallenge says that a challenge was made for other keys, or altered.
	ErrChallenge = errors.New("the challenge is not for the endorsement key and attestation key of this root")

	// ErrClosed says that the Root was closed.
	ErrClosed = errors.New("the root is closed")
)

// named puts the error of errors.Is before what the TPM said.
func (c *chip) named(err error) error {
	switch {
	case errors.Is(err, tpm2.TPMRCLockout):
		return fmt.Errorf("%w; %s (%w)", ErrLockout, c.lockout(), err)
	case errors.Is(err, ErrHierarchy), errors.Is(err, ErrChallenge):
		return err
	case errors.Is(err, tpm2.TPMRCAuthFail), errors.Is(err, tpm2.TPMRCBadAuth):
		return fmt.Errorf("%w (%w)", ErrAuth, err)
	case errors.Is(err, tpm2.TPMRCPolicyFail), errors.Is(err, tpm2.TPMRCPCRChanged):
		return fmt.Errorf("%w; %s (%w)", ErrPCR, c.changed(), err)
	case errors.Is(err, tpm2.TPMRCObjectMemory):
		return fmt.Errorf("%w (%w)", ErrObjectMemory, err)
	case noSession(err):
		return fmt.Errorf("%w (%w)", ErrSessionMemory, err)
	case errors.Is(err, tpm2.TPMRCInitialize):
		return fmt.Errorf("%w (%w)", ErrNotStarted, err)
	}
	return err
}

func noSession(err error) bool {
	return errors.Is(err, tpm2.TPMRCSessionMemory) || errors.Is(err, tpm2.TPMRCSessionHandles)
}

// stale reports whether the TPM does not know a handle any more: it was reset.
func stale(err error) bool {
	for rc := tpm2.TPMRCReferenceH0; rc <= tpm2.TPMRCReferenceH0+14; rc++ { // H0 to H6, S0 to S6
		if errors.Is(err, rc) {
			return true
		}
	}
	return errors.Is(err, tpm2.TPMRCHandle)
}

// lost reports whether there is no knowing if the TPM did what it was told.
func lost(err error) bool { return errors.Is(err, ErrHung) || errors.Is(err, ErrVanished) }

// lockout says what the TPM tells of its lockout: for people only, since
// nothing vouches for it.
func (c *chip) lockout() string {
	reset := "tpm2_dictionarylockout --clear-lockout ends it at once"
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTLockoutInterval), PropertyCount: 1,
	}.Execute(c.wire)
	if err != nil {
		return reset
	}
	properties, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(properties.TPMProperty) != 1 {
		return reset
	}
	return fmt.Sprintf("one try comes back every %d s without power loss; %s", properties.TPMProperty[0].Value, reset)
}

// changed names the PCRs that have another value than when the root was made.
func (c *chip) changed() string {
	var names []string
	for _, p := range c.pcrs {
		if value, err := c.readPCR(p.Index); err != nil || string(value) != string(p.Value) {
			names = append(names, fmt.Sprint(p.Index))
		}
	}
	return "PCRs that differ now: " + strings.Join(names, ", ")
}
