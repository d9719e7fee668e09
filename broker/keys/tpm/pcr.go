package tpm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// A pcr is the value that a platform configuration register, of the SHA-256
// bank, has to have.
type pcr struct {
	Index int    `json:"index"`
	Value []byte `json:"value"`
}

// lastPCR is the highest that every PC has.
const lastPCR = 23

func checkPCRs(indexes []int) error {
	sorted := slices.Sorted(slices.Values(indexes))
	if len(slices.Compact(sorted)) != len(indexes) {
		return errors.New("TPM PCRs: one is listed twice")
	}
	for _, i := range indexes {
		if i < 0 || i > lastPCR {
			return fmt.Errorf("TPM PCR %d: want 0 to %d", i, lastPCR)
		}
	}
	return nil
}

func selection(pcrs []pcr) tpm2.TPMLPCRSelection {
	var indexes []uint
	for _, p := range pcrs {
		indexes = append(indexes, uint(p.Index))
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(indexes...),
	}}}
}

// policyOf returns the policy of a key that needs the auth value and all of
// pcrs, which are in order; nil if there are none.
func policyOf(pcrs []pcr) ([]byte, error) {
	if len(pcrs) == 0 {
		return nil, nil
	}
	values := sha256.New()
	for _, p := range pcrs {
		values.Write(p.Value)
	}
	policy, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, fmt.Errorf("calculating the policy of the keys: %w", err)
	}
	err = errors.Join(
		tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: values.Sum(nil)}, Pcrs: selection(pcrs)}.Update(policy),
		tpm2.PolicyAuthValue{}.Update(policy),
	)
	return policy.Hash().Digest, err
}

// satisfy does in a session what policyOf demands.
func (c *chip) satisfy(t transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
	if _, err := (tpm2.PolicyPCR{PolicySession: session, Pcrs: selection(c.pcrs)}).Execute(t); err != nil {
		return err
	}
	_, err := tpm2.PolicyAuthValue{PolicySession: session}.Execute(t)
	return err
}

// readPCR reads a register. The TPM vouches for the answer with a salted
// session, so that nobody in between chooses what the keys are bound to.
func (c *chip) readPCR(index int) ([]byte, error) {
	rsp, err := tpm2.PCRRead{PCRSelectionIn: selection([]pcr{{Index: index}})}.Execute(c.wire, c.session(nil, tpm2.Audit()))
	if err != nil {
		return nil, fmt.Errorf("reading PCR %d: %w", index, err)
	}
	if len(rsp.PCRValues.Digests) != 1 || len(rsp.PCRValues.Digests[0].Buffer) != sha256.Size {
		return nil, fmt.Errorf("reading PCR %d: the TPM has no SHA-256 bank of PCRs, or not this one", index)
	}
	return rsp.PCRValues.Digests[0].Buffer, nil
}

// readPCRs reads the registers that a root is to be bound to.
func (c *chip) readPCRs(indexes []int) ([]pcr, error) {
	var pcrs []pcr
	for _, i := range slices.Sorted(slices.Values(indexes)) {
		value, err := c.readPCR(i)
		if err != nil {
			return nil, err
		}
		pcrs = append(pcrs, pcr{i, value})
	}
	return pcrs, nil
}
