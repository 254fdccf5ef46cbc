package roadbed.interop;

import com.netflix.discovery.shared.transport.jersey.TransportClientFactories;
import java.util.List;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.actuate.health.Health;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.cloud.client.ServiceInstance;
import org.springframework.cloud.client.discovery.DiscoveryClient;
import org.springframework.cloud.client.loadbalancer.LoadBalanced;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Primary;
import org.springframework.core.env.Environment;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestClient;

/**
 * A Spring Boot service as its guides make one: registered by the starter, healthy by its health check, calling others
 * by name, with a gateway route to them, and configured by a config server if it is told of one.
 */
@SpringBootApplication
public class App {
    public static void main(String[] args) {
        SpringApplication.run(App.class, args);
    }

    @Configuration
    static class Calls {
        /** What speaks to the registry itself must not go by name. */
        @Bean
        @Primary
        RestClient.Builder plain() {
            return RestClient.builder();
        }

        @Bean
        @LoadBalanced
        RestClient.Builder balanced() {
            return RestClient.builder();
        }
    }

    @RestController
    static class Api implements HealthIndicator {
        private final RestClient calls;
        private final DiscoveryClient discovery;
        private final Environment environment;
        private final TransportClientFactories<?> transport; // to the registry; null without one
        private volatile boolean healthy = true;

        Api(@LoadBalanced RestClient.Builder calls, DiscoveryClient discovery, Environment environment,
                ObjectProvider<TransportClientFactories<?>> transport) {
            this.calls = calls.build();
            this.discovery = discovery;
            this.environment = environment;
            this.transport = transport.getIfAvailable();
        }

        @GetMapping("/hello")
        String hello() {
            return "hello from Spring";
        }

        /** Fetches a URL whose host is the name of a service. */
        @GetMapping("/call")
        String call(@RequestParam String url) {
            return calls.get().uri(url).retrieve().body(String.class);
        }

        @GetMapping("/instances")
        List<String> instances(@RequestParam String of) {
            return discovery.getInstances(of).stream().map(ServiceInstance::getInstanceId).sorted().toList();
        }

        /** Which of its ways to speak to the registry this process uses. */
        @GetMapping("/transport")
        String transport() {
            return transport == null ? "none" : transport.getClass().getSimpleName();
        }

        @GetMapping("/property")
        String property(@RequestParam String name) {
            return String.valueOf(environment.getProperty(name));
        }

        @PostMapping("/healthy")
        void healthy(@RequestParam boolean is) {
            healthy = is;
        }

        @Override
        public Health health() {
            return (healthy ? Health.up() : Health.down()).build();
        }
    }
}
