package roadbed.interop;

import com.netflix.appinfo.DataCenterInfo;
import com.netflix.appinfo.InstanceInfo;
import com.netflix.appinfo.InstanceInfo.InstanceStatus;
import com.netflix.appinfo.InstanceInfo.PortType;
import com.netflix.appinfo.LeaseInfo;
import com.netflix.appinfo.MyDataCenterInfo;
import com.netflix.discovery.DefaultEurekaClientConfig;
import com.netflix.discovery.shared.Application;
import com.netflix.discovery.shared.Applications;
import com.netflix.discovery.shared.resolver.DefaultEndpoint;
import com.netflix.discovery.shared.transport.EurekaHttpClient;
import com.netflix.discovery.shared.transport.EurekaHttpResponse;
import com.netflix.discovery.shared.transport.jersey3.Jersey3TransportClientFactories;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;

/**
 * Calls the operations of Netflix's EurekaHttpClient one by one, of instances of app WIRE. Argument: the base URL. Each
 * answer begins with the status; then come instances, as APP/id/STATUS.
 */
public final class Transport {
    private static final Map<String, InstanceInfo> MINE = new HashMap<>();

    public static void main(String[] args) throws Exception {
        InstanceInfo self = instance("self", "UP");
        EurekaHttpClient http = new Jersey3TransportClientFactories()
                .newTransportClientFactory(new DefaultEurekaClientConfig(), Collections.emptyList(), self)
                .newClient(new DefaultEndpoint(args[0]));
        new Orders()
                .on("register", w -> code(http.register(instance(w.get(0), w.get(1)))))
                .on("heartbeat", w -> one(http.sendHeartBeat("WIRE", w.get(0), MINE.get(w.get(0)), null)))
                .on("status", w -> code(http.statusUpdate("WIRE", w.get(0), InstanceStatus.valueOf(w.get(1)), MINE.get(w.get(0)))))
                .on("clear", w -> code(http.deleteStatusOverride("WIRE", w.get(0), MINE.get(w.get(0)))))
                .on("cancel", w -> code(http.cancel("WIRE", w.get(0))))
                .on("apps", w -> all(http.getApplications()))
                .on("delta", w -> all(http.getDelta()))
                .on("vip", w -> all(http.getVip(w.get(0))))
                .on("app", w -> {
                    EurekaHttpResponse<Application> r = http.getApplication(w.get(0));
                    List<String> out = code(r);
                    if (r.getEntity() != null) {
                        r.getEntity().getInstancesAsIsFromEureka().forEach(i -> out.add(name(i)));
                    }
                    return out;
                })
                .on("instance", w -> one(http.getInstance("WIRE", w.get(0))))
                .on("any", w -> one(http.getInstance(w.get(0))))
                .on("stop", w -> List.of())
                .obey();
    }

    private static InstanceInfo instance(String id, String status) {
        InstanceInfo made = InstanceInfo.Builder.newBuilder((Function<String, String>) s -> s)
                .setInstanceId(id).setAppName("wire").setHostName("localhost").setIPAddr("127.0.0.1")
                .setPort(8080).setSecurePort(8443).enablePort(PortType.SECURE, true)
                .setVIPAddressDeser("wire.vip").setSecureVIPAddressDeser("wire.svip")
                .setStatus(InstanceStatus.valueOf(status)).setDataCenterInfo(new MyDataCenterInfo(DataCenterInfo.Name.MyOwn))
                .setLeaseInfo(LeaseInfo.Builder.newBuilder().build()).setMetadata(new HashMap<>(Map.of("k", "v")))
                .setLastDirtyTimestamp(System.currentTimeMillis()).build();
        MINE.put(id, made);
        return made;
    }

    private static String name(InstanceInfo i) {
        return i.getAppName() + "/" + i.getId() + "/" + i.getStatus();
    }

    private static List<String> code(EurekaHttpResponse<?> r) {
        return new ArrayList<>(List.of(String.valueOf(r.getStatusCode())));
    }

    private static List<String> one(EurekaHttpResponse<InstanceInfo> r) {
        List<String> out = code(r);
        if (r.getEntity() != null) {
            out.add(name(r.getEntity()));
        }
        return out;
    }

    private static List<String> all(EurekaHttpResponse<Applications> r) {
        List<String> out = code(r);
        if (r.getEntity() != null) {
            for (Application app : r.getEntity().getRegisteredApplications()) {
                app.getInstancesAsIsFromEureka().forEach(i -> out.add(name(i)));
            }
        }
        return out;
    }
}
