package roadbed.interop;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.netflix.appinfo.AmazonInfo;
import com.netflix.appinfo.DataCenterInfo;
import com.netflix.appinfo.InstanceInfo;
import com.netflix.appinfo.InstanceInfo.ActionType;
import com.netflix.appinfo.InstanceInfo.InstanceStatus;
import com.netflix.appinfo.InstanceInfo.PortType;
import com.netflix.appinfo.LeaseInfo;
import com.netflix.discovery.converters.wrappers.CodecWrapper;
import com.netflix.discovery.converters.wrappers.CodecWrappers;
import com.netflix.discovery.shared.Application;
import com.netflix.discovery.shared.Applications;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * Compares a registry's documents with what the encoders and decoders of Netflix's client make of the same instances.
 * One JSON object per line comes in, one goes out:
 *
 * <p>{"do":"generate","from":0,"to":250} answers {"registrations":[{"body","type","app"}]}, each as one of the encoders
 * writes a generated instance.
 *
 * <p>{"do":"judge","from":0,"documents":[{"jsonFull","jsonCompact","xmlFull","xmlCompact"}]} is told how a registry
 * shows those instances and answers {"checks","faults"}. What only a server can know, its own times and the action, is
 * taken from its full JSON; everything else must be as it was generated.
 *
 * <p>{"do":"judgeAll","jsonFull",...} does so for a document of many applications in all forms, given the names of
 * files that hold them.
 */
public final class Codec {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final CodecWrapper LEGACY = CodecWrappers.getCodec(CodecWrappers.LegacyJacksonJson.class);
    private static final CodecWrapper XSTREAM = CodecWrappers.getCodec(CodecWrappers.XStreamXml.class);
    private static final CodecWrapper JACKSON = CodecWrappers.getCodec(CodecWrappers.JacksonJson.class);
    private static final CodecWrapper MINI = CodecWrappers.getCodec(CodecWrappers.JacksonJsonMini.class);
    private static final CodecWrapper JACKSON_XML = CodecWrappers.getCodec(CodecWrappers.JacksonXml.class);
    private static final CodecWrapper MINI_XML = CodecWrappers.getCodec(CodecWrappers.JacksonXmlMini.class);

    /** In which of a registry's forms a document is, and whose encoder writes the like of it. */
    enum Form {
        jsonFull(LEGACY, List.of(LEGACY, JACKSON)),
        jsonCompact(MINI, List.of(LEGACY, JACKSON, MINI)),
        xmlFull(XSTREAM, List.of(XSTREAM, JACKSON_XML)),
        xmlCompact(MINI_XML, List.of(XSTREAM, JACKSON_XML, MINI_XML));

        final CodecWrapper writer;
        final List<CodecWrapper> readers;

        Form(CodecWrapper writer, List<CodecWrapper> readers) {
            this.writer = writer;
            this.readers = readers;
        }

        boolean xml() {
            return this == xmlFull || this == xmlCompact;
        }
    }

    private int checks;
    private final List<String> faults = new ArrayList<>();

    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            JsonNode order = JSON.readTree(line);
            ObjectNode answer = switch (order.get("do").asText()) {
                case "generate" -> generate(order.get("from").asInt(), order.get("to").asInt());
                case "judge" -> new Codec().judge(order.get("from").asInt(), order.get("documents"));
                case "judgeAll" -> new Codec().judgeAll(order);
                default -> throw new IllegalArgumentException("no order " + order.get("do"));
            };
            out.println(JSON.writeValueAsString(answer));
            out.flush();
        }
    }

    private static ObjectNode generate(int from, int to) throws Exception {
        ObjectNode answer = JSON.createObjectNode();
        ArrayNode list = answer.putArray("registrations");
        for (int i = from; i < to; i++) {
            InstanceInfo info = Generator.instance(i);
            CodecWrapper by = List.of(LEGACY, JACKSON, Generator.onlyJSON(i) ? LEGACY : XSTREAM).get(i % 3);
            list.addObject()
                    .put("body", by.encode(info))
                    .put("type", by == XSTREAM ? "application/xml" : "application/json")
                    .put("app", info.getAppName())
                    .put("id", info.getId())
                    .put("onlyJSON", Generator.onlyJSON(i));
        }
        return answer;
    }

    private ObjectNode judge(int from, JsonNode documents) throws Exception {
        for (int i = 0; i < documents.size(); i++) {
            InstanceInfo generated = Generator.instance(from + i);
            String what = "instance " + (from + i);
            JsonNode forms = documents.get(i);
            InstanceInfo shown = LEGACY.decode(forms.get("jsonFull").asText(), InstanceInfo.class);
            InstanceInfo expected = asServed(generated, shown);
            for (Form form : Form.values()) {
                if (form.xml() && Generator.onlyJSON(from + i)) {
                    continue;
                }
                String ours = forms.get(form.name()).asText();
                String theirs = form.writer.encode(expected);
                if (form == Form.jsonFull) {
                    check(what + ", bytes of jsonFull", theirs, ours);
                }
                for (CodecWrapper reader : form.readers) {
                    compare(what + ", " + form + " read by " + reader.codecName(), form, reader, ours, theirs);
                }
            }
        }
        return answer();
    }

    private void compare(String what, Form form, CodecWrapper reader, String ours, String theirs) {
        Map<String, Object> want;
        try {
            want = fields(reader.decode(theirs, InstanceInfo.class), form);
        } catch (Exception e) {
            return; // it cannot read its own kind, for some metadata's keys
        }
        Map<String, Object> got;
        try {
            got = fields(reader.decode(ours, InstanceInfo.class), form);
        } catch (Exception e) {
            got = Map.of("refused", e.toString());
        }
        check(what, want, got);
    }

    private ObjectNode judgeAll(JsonNode forms) throws Exception {
        String full = Files.readString(Path.of(forms.get("jsonFull").asText()));
        Applications want = LEGACY.decode(full, Applications.class);
        check("all in jsonFull", JSON.readTree(LEGACY.encode(want)), JSON.readTree(full));
        for (Form form : Form.values()) {
            String ours = Files.readString(Path.of(forms.get(form.name()).asText()));
            String theirs = form.writer.encode(want);
            for (CodecWrapper reader : form.readers) {
                String what = "all in " + form + " read by " + reader.codecName();
                Applications b;
                try {
                    b = reader.decode(theirs, Applications.class);
                } catch (Exception e) {
                    continue; // it cannot read its own kind, for some metadata's keys
                }
                Applications a = reader.decode(ours, Applications.class);
                check(what + ", hash", want.getReconcileHashCode(), a.getReconcileHashCode());
                check(what + ", hash told", want.getReconcileHashCode(), a.getAppsHashCode());
                check(what + ", version", String.valueOf(b.getVersion()), String.valueOf(a.getVersion()));
                check(what + ", number of apps", want.getRegisteredApplications().size(), a.getRegisteredApplications().size());
                for (Application app : b.getRegisteredApplications()) {
                    Application same = a.getRegisteredApplications(app.getName());
                    check(what + ", number of instances of " + app.getName(), app.size(), same == null ? 0 : same.size());
                    for (InstanceInfo i : app.getInstancesAsIsFromEureka()) {
                        InstanceInfo other = same == null ? null : same.getByInstanceId(i.getId());
                        check(what + ", " + i.getId(), fields(i, form), other == null ? Map.of() : fields(other, form));
                    }
                }
            }
        }
        return answer();
    }

    private void check(String what, Object want, Object got) {
        checks++;
        if (!want.equals(got)) {
            faults.add(what + ":\n\twant " + want + "\n\tgot  " + got);
        }
    }

    private void check(String what, Map<String, Object> want, Map<String, Object> got) {
        Map<String, Object> without = new LinkedHashMap<>(want);
        without.entrySet().removeAll(got.entrySet());
        Map<String, Object> instead = new LinkedHashMap<>(got);
        instead.entrySet().removeAll(want.entrySet());
        check(what, (Object) without, instead);
    }

    private ObjectNode answer() {
        ObjectNode answer = JSON.createObjectNode().put("checks", checks);
        ArrayNode list = answer.putArray("faults");
        faults.forEach(list::add);
        return answer;
    }

    /**
     * The instance as a Eureka server shows it after its registration. The server's own times and the action are taken
     * from shown; the rest follows from what was registered. Metadata are in the order of their keys' bytes, which is
     * ours; servers in Java have that of a hash table.
     */
    private static InstanceInfo asServed(InstanceInfo info, InstanceInfo shown) {
        DataCenterInfo dataCenter = info.getDataCenterInfo();
        if (dataCenter instanceof AmazonInfo amazon) {
            Map<String, String> all = new LinkedHashMap<>(amazon.getMetadata());
            if (all.getOrDefault("instance-id", "").isEmpty()) {
                all.put("instance-id", info.getId());
            }
            dataCenter = new AmazonInfo("Amazon", byBytes(all));
        }
        LeaseInfo asked = info.getLeaseInfo() != null ? info.getLeaseInfo() : LeaseInfo.Builder.newBuilder().build();
        LeaseInfo lease = LeaseInfo.Builder.newBuilder()
                .setRenewalIntervalInSecs(asked.getRenewalIntervalInSecs())
                .setDurationInSecs(asked.getDurationInSecs())
                .setRegistrationTimestamp(shown.getLeaseInfo().getRegistrationTimestamp())
                .setRenewalTimestamp(shown.getLeaseInfo().getRenewalTimestamp())
                .setEvictionTimestamp(0)
                .setServiceUpTimestamp(shown.getLeaseInfo().getServiceUpTimestamp())
                .build();
        boolean overridable = info.getStatus() == InstanceStatus.UP || info.getStatus() == InstanceStatus.OUT_OF_SERVICE;
        boolean overridden = info.getOverriddenStatus() != InstanceStatus.UNKNOWN;
        Long dirty = info.getLastDirtyTimestamp();
        return new InstanceInfo(info.getInstanceId(), info.getAppName(), info.getAppGroupName(), info.getIPAddr(), info.getSID(),
                new InstanceInfo.PortWrapper(info.isPortEnabled(PortType.UNSECURE), info.getPort()),
                new InstanceInfo.PortWrapper(info.isPortEnabled(PortType.SECURE), info.getSecurePort()),
                info.getHomePageUrl(), info.getStatusPageUrl(), info.getHealthCheckUrl(), info.getSecureHealthCheckUrl(),
                info.getVIPAddress(), info.getSecureVipAddress(), info.getCountryId(), dataCenter, info.getHostName(),
                overridable && overridden ? info.getOverriddenStatus() : info.getStatus(), info.getOverriddenStatus(), null, lease,
                false, byBytes(info.getMetadata()), shown.getLastUpdatedTimestamp(),
                dirty != null ? dirty : shown.getLastDirtyTimestamp(), ActionType.ADDED, info.getASGName());
    }

    private static LinkedHashMap<String, String> byBytes(Map<String, String> map) {
        LinkedHashMap<String, String> ordered = new LinkedHashMap<>();
        map.entrySet().stream()
                .sorted(Comparator.comparing(e -> e.getKey().getBytes(StandardCharsets.UTF_8), Arrays::compareUnsigned))
                .forEach(e -> ordered.put(e.getKey(), e.getValue()));
        return ordered;
    }

    /** Everything that can be read of an instance in a form. */
    private static Map<String, Object> fields(InstanceInfo i, Form form) {
        Map<String, Object> all = new LinkedHashMap<>();
        all.put("instanceId", i.getInstanceId());
        all.put("id", i.getId());
        all.put("host", i.getHostName());
        all.put("app", i.getAppName());
        all.put("group", i.getAppGroupName());
        all.put("ip", i.getIPAddr());
        all.put("sid", i.getSID());
        all.put("status", i.getStatus());
        all.put("overridden", i.getOverriddenStatus());
        all.put("port", i.getPort() + " " + i.isPortEnabled(PortType.UNSECURE));
        all.put("securePort", i.getSecurePort() + " " + i.isPortEnabled(PortType.SECURE));
        all.put("country", i.getCountryId());
        DataCenterInfo dc = i.getDataCenterInfo();
        all.put("dataCenter", dc == null ? null : dc.getName() + (dc instanceof AmazonInfo a ? " " + new TreeMap<>(a.getMetadata()) : ""));
        LeaseInfo l = i.getLeaseInfo();
        all.put("lease", l == null ? null : List.of(l.getRenewalIntervalInSecs(), l.getDurationInSecs(), l.getRegistrationTimestamp(),
                l.getRenewalTimestamp(), l.getEvictionTimestamp(), l.getServiceUpTimestamp()));
        all.put("metadata", i.getMetadata() == null ? null : new TreeMap<>(i.getMetadata()));
        all.put("home", i.getHomePageUrl());
        all.put("statusPage", i.getStatusPageUrl());
        all.put("health", i.getHealthCheckUrl());
        all.put("secureHealth", i.getSecureHealthCheckUrl());
        all.put("vip", i.getVIPAddress());
        all.put("secureVip", i.getSecureVipAddress());
        all.put("self", i.isCoordinatingDiscoveryServer());
        all.put("updated", i.getLastUpdatedTimestamp());
        if (form == Form.jsonFull || form == Form.xmlFull) { // else some readers put the time of reading there
            all.put("dirty", i.getLastDirtyTimestamp());
        }
        all.put("action", i.getActionType());
        all.put("asg", i.getASGName());
        return all;
    }
}
