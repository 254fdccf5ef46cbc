package edge

import "github.com/roadbed/roadbed/platform/edge/region"

// What the API tells and takes of regions, for those who call it.
type (
	RegionsView    = region.RegionsView    // of GET /api/v1/edge/regions
	RegionView     = region.RegionView     // of GET /api/v1/edge/regions/REGION
	RegionDocument = region.RegionDocument // one property that holds a region
	RegionChange   = region.RegionChange   // of POST /api/v1/edge/regions/REGION/check
	RegionChanged  = region.RegionChanged  // its answer
	RegionState    = region.State
	RegionProposal = region.RegionProposal
	Regions        = region.Documents // by name
)

// What has become of a proposal.
const (
	ProposalOpen    = region.Open
	ProposalRefused = region.Refused
	ProposalExpired = region.Expired
	ProposalActed   = region.Acted
)

// Properties of proposals: what those that hold them begin with, and the one by which they are followed at once.
const (
	ProposalProperty = region.ProposalPrefix
	AutoProperty     = region.AutoProperty
)

// ParseRegions reads the regions among properties, but for those with mistakes.
func ParseRegions(props map[string]string) Regions { return region.ParseAll(props) }

// ParseProposal reads a proposal; nil if text is none.
func ParseProposal(text string) *RegionProposal { return region.ParseProposal(text) }

// The states of a region.
const (
	RegionServing   = region.Serving
	RegionDraining  = region.Draining
	RegionEvacuated = region.Evacuated
)

// RegionRamp is how long moving users takes if a document does not say.
const RegionRamp = region.DefaultRamp

// RegionProperty is what the properties that hold regions begin with.
const RegionProperty = region.Prefix
